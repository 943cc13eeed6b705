"""Run directories under kill -9, a full disk, damage and other recipes."""

import errno
import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from arte.core.recipes import dump_recipe
from arte.run.engine import open_engine
from arte.run.rundir import RunDir
from support.tiny import tiny_recipe

SAVING = """
import sys, pandas as pd
from arte.core.recipes import load_recipe
from arte.run.rundir import RunDir
rd, n = RunDir(sys.argv[1], load_recipe(sys.argv[2])), 0
while True:
    n += 1
    text = [f"{n} {i}" for i in range(20_000)]
    rd.save("drafts", pd.DataFrame({"n": [n] * 20_000, "text": text}))
    rd.done("elicit", n, {"n": n})
    print(n, flush=True)
"""


def test_killed_while_writing(tmp_path):
    (tmp_path / "r.yaml").write_text(dump_recipe(tiny_recipe()))
    out = tmp_path / "out"
    for attempt in range(3):
        p = subprocess.Popen(
            [sys.executable, "-c", SAVING, out, tmp_path / "r.yaml"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3):
            p.stdout.readline()
        time.sleep(0.02 + attempt / 100)
        p.kill()
        p.communicate()
        table = RunDir(out).table("drafts")
        assert len(table) == 20_000 and table.n.nunique() == 1
        assert RunDir(out).stages["elicit"]["counts"]["n"] in (table.n[0], table.n[0] - 1)
    RunDir(out, tiny_recipe()).close()


@pytest.mark.parametrize(
    "number, message",
    [
        (errno.ENOSPC, "The disk is full"),
        (errno.EROFS, "write permission"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_disk_trouble(tmp_path, monkeypatch, number, message):
    rd = RunDir(tmp_path / "out", tiny_recipe())
    rd.save("items", pd.DataFrame({"n": [1]}))

    def trouble(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", trouble)
    with pytest.raises(OSError, match=message):
        rd.save("items", pd.DataFrame({"n": [2]}))
    with pytest.raises(OSError, match=message):
        RunDir(tmp_path / "other", tiny_recipe())
    monkeypatch.undo()
    assert rd.table("items").n.tolist() == [1]
    assert not [o for o in rd.folder.iterdir() if o.name.startswith(".")]


def test_damage_is_named(tmp_path):
    rd = RunDir(tmp_path / "out", tiny_recipe())
    rd.save("pairs", pd.DataFrame({"n": [1]}))
    rd.done("pairs", 1, {})
    for content in (b"", b"PAR1", b"not parquet at all"):
        rd.path("pairs.parquet").write_bytes(content)
        with pytest.raises(ValueError, match="pairs.parquet is damaged.*the stage pairs runs anew"):
            rd.table("pairs")
    rd.path("pairs.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="the stage pairs runs anew"):
        rd.table("pairs")
    with pytest.raises(FileNotFoundError, match="the stage that makes it"):
        rd.table("nothing")
    assert rd.stages == {}
    rd.path("stages.json").write_text('{"pairs": ')
    with pytest.raises(ValueError, match="stages.json is damaged"):
        _ = rd.stages


def test_damaged_recipe_is_named(tmp_path):
    RunDir(tmp_path / "out", tiny_recipe()).close()
    (tmp_path / "out" / "recipe.yaml").write_text("name: [")
    with pytest.raises(ValueError, match="recipe.yaml: this is not YAML"):
        RunDir(tmp_path / "out")


def test_another_recipe(tmp_path):
    RunDir(tmp_path / "out", tiny_recipe()).close()
    with pytest.raises(ValueError, match="align.lr: 0.0001 in the folder, 0.5 in the recipe"):
        RunDir(
            tmp_path / "out", tiny_recipe(align=dict(lr=0.5, batch=2, max_length=256, held_out=1))
        )


def test_a_stage_done_again_keeps_its_place(tmp_path):
    rd = RunDir(tmp_path / "out", tiny_recipe())
    for stage in ("data", "elicit"):
        rd.save(stage, pd.DataFrame({"n": [1, 2]}))
        rd.done(stage, 1, {})
    rd.save("data", pd.DataFrame({"n": [1]}))
    rd.done("data", 2, {})
    assert {k: v["tables"] for k, v in rd.stages.items()} == {
        "data": {"data": 1},
        "elicit": {"elicit": 2},
    }


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="thesis.tex"):
        RunDir(tmp_path, tiny_recipe())
    assert [o.name for o in tmp_path.iterdir()] == ["thesis.tex"]


def test_engine_generates_when_writing_and_replays_when_reading(tmp_path, monkeypatch):
    pytest.importorskip("arte.engines.journal")
    from arte.engines.open import EngineKind
    from arte.models import folders as models
    from arte.engines.protocol import Completion, Sampling

    class Parrot:
        fingerprint, made = "f" * 16, 0

        def __init__(self, *args):
            Parrot.made += 1

        def generate(self, prompts, sampling):
            return [[Completion(p.upper(), 1, 1, "eos")] for p in prompts]

        def close(self):
            pass

    parrots = (EngineKind("auto", Parrot),)
    monkeypatch.setattr(models, "fingerprint", lambda *folder: Parrot.fingerprint)
    out = tmp_path / "out"
    with RunDir(out, tiny_recipe()) as rd:
        rd.path("student").mkdir()
        for file in ("config.json", "model.safetensors"):
            rd.path("student", file).write_text("{}")
        rd.register("student", rd.path("student"))
        assert (
            open_engine(rd, "student", parrots).generate(["hello"], Sampling())[0][0].text
            == "HELLO"
        )
        assert (
            open_engine(rd, "student", parrots).generate(["hello"], Sampling())[0][0].text
            == "HELLO"
        )
    assert Parrot.made == 1
    reader = RunDir(out)
    assert (
        open_engine(reader, "student", parrots).generate(["hello"], Sampling())[0][0].text
        == "HELLO"
    )
    with pytest.raises(LookupError):
        open_engine(reader, "student", parrots).generate(["never seen"], Sampling())
    with pytest.raises(LookupError, match="no model 'teacher'.*student"):
        open_engine(reader, "teacher")
    assert Parrot.made == 1
    reader.close()
