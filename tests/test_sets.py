"Training sets as files: what a run's student learned from, and sets that one already has."

import json

import pandas as pd
import pytest

from arte.distill import arm_examples
from arte.run.cli import main
from arte.run.sets.export import FORMATS
from support.world import World


@pytest.fixture
def arte(capsys):
    "Run a command; return its status, stdout and stderr."

    def command(*args):
        status = main([str(arg) for arg in args])
        return (status, *capsys.readouterr())

    return command


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# arte export


@pytest.fixture
def done(tiny_model, tmp_path, monkeypatch):
    "A whole run on scripts."
    return World(monkeypatch, tiny_model, tmp_path).first({})


@pytest.mark.parametrize("form", FORMATS)
def test_export(done, arte, form):
    status, out, err = arte("export", done.folder, "--format", form)
    ending = "parquet" if form == "parquet" else "jsonl"
    path = done.folder / f"arte-{form}.{ending}"
    assert (status, err) == (0, "") and f"Wrote {path}: " in out
    rows = pd.read_parquet(path).to_dict("records") if form == "parquet" else rows_of(path)
    assert f"{len(rows)} examples, columns {', '.join(rows[0])}" in out
    learned = arm_examples(done.table("examples"), "arte")
    assert 0 < len(rows) <= len(learned)
    if form in ("completion", "parquet"):
        texts = {(row["prompt"], row["completion"]) for row in learned}
        assert texts >= {(row["prompt"], row["completion"]) for row in rows}


def test_export_does_not_write_over_a_file(done, arte, tmp_path):
    out = tmp_path / "set.jsonl"
    out.write_text("mine")
    status, said, err = arte("export", done.folder, "--out", out)
    assert (status, said) == (2, "") and f"{out} is there already" in err and "--overwrite" in err
    assert out.read_text() == "mine"
    assert arte("export", done.folder, "--out", out, "--overwrite")[0] == 0
    assert rows_of(out)[0].keys() == {"messages"}


def test_export_of_an_arm_that_is_not_there(done, arte):
    status, said, err = arte("export", done.folder, "--arm", "random")
    assert (status, said) == (2, "")
    assert "arm 'random' has no examples; arms with examples: arte, original" in err


def test_export_leaves_out_what_was_cut_off(done, arte, monkeypatch):
    path = done.path("examples.parquet")
    examples = done.table("examples")
    cut = examples[examples.arm == "arte"].index[0]
    examples.assign(finish=["length" if i == cut else "eos" for i in examples.index]).to_parquet(
        path
    )
    _, said, _ = arte("export", done.folder, "--format", "completion")
    assert "1 left out that were cut off while they were written" in said
    assert examples.completion[cut] not in {
        row["completion"] for row in rows_of(done.path("arte-completion.jsonl"))
    }
