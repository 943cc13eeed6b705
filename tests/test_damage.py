"""A whole run whose files are damaged in the middle: it says what happened and what to do, keeps
what was committed, and then ends as an undisturbed run does."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from arte.run.rundir import RunDir
from arte.run.parts import PARTS, STAGES
from arte.run.pipeline import run
from support.world import World, entries, tables


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield World(patch, tiny_model, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world):
    return world.first({})


@pytest.fixture
def go_on(world, tmp_path):
    "Starts the same command again."
    return lambda **more: run(world.recipe({}), tmp_path / "run", **more)


@pytest.fixture
def stopped(go_on, tmp_path):
    "A function: a run that is stopped when it enters a stage."

    def interrupt(folder, parts):
        raise KeyboardInterrupt

    def stop(name):
        stages = [replace(s, run=interrupt) if s.name == name else s for s in STAGES]
        with pytest.raises(KeyboardInterrupt):
            go_on(parts=replace(PARTS, stages=tuple(stages)))
        return RunDir(tmp_path / "run")

    return stop


def generated(run):
    return {k: v["counts"].get("prompts", 0) for k, v in run.stages.items()}


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize("share, least", [(0.02, 0), (0.5, 0.2), (0.9, 0.6)])
@pytest.mark.parametrize("rescued", [False, True])
def test_truncated_journal(stopped, go_on, whole, share, least, rescued):
    "The command in the message rescues what is left, or it is begun anew; tables stay readable."
    half = stopped("tailor")
    journal, before = half.path("journal.db"), entries(half)
    half.close()
    cut(journal, int(share * journal.stat().st_size))
    with pytest.raises(
        ValueError,
        match=f"{journal} can't be read as a journal.*To save what is left of it, and continue: "
        "python -c",
    ) as e:
        go_on()
    assert all(
        len(half.table(t)) == n for s in half.stages.values() for t, n in s["tables"].items()
    )
    kept = set()
    if rescued:
        subprocess.run([sys.executable, "-c", str(e.value).split('"')[1]], check=True)
        kept = entries(RunDir(half.folder))
        assert kept <= before and len(kept) >= least * len(before)
    else:
        journal.rename(journal.with_suffix(".damaged"))
    done = go_on()
    assert tables(done) == tables(whole) and kept <= entries(done) <= entries(whole)


def test_emptied_journal(stopped, go_on, whole, capsys):
    half = stopped("tailor")
    cut(half.path("journal.db"), 0)
    done = go_on()
    assert (
        "journal.db is empty, although stages of this run have asked models"
        in capsys.readouterr().out
    )
    assert tables(done) == tables(whole)


def test_journal_of_a_newer_version(stopped, go_on, whole):
    def version(v):
        db = sqlite3.connect(half.path("journal.db"))
        db.execute(f"PRAGMA user_version = {v}")
        db.close()

    half = stopped("heldout")
    before = tables(half)
    version(99)
    with pytest.raises(
        ValueError, match="has version 99, this program knows versions up to 1. .* update this one"
    ):
        go_on()
    assert tables(half) == before
    version(1)  # as a newer program reads it
    done = go_on()
    assert tables(done) == tables(whole) and entries(done) == entries(whole)
    assert generated(done) == generated(whole)


@pytest.mark.parametrize(
    "table, stage, stop",
    [("items", "items", "irt"), ("scores", "prefer", "pairs"), ("examples", "tailor", "distill")],
)
def test_table_cut_short(stopped, go_on, whole, table, stage, stop):
    half = stopped(stop)
    file = half.path(f"{table}.parquet")
    cut(file, file.stat().st_size // 2)
    with pytest.raises(
        ValueError,
        match=f"{file} is damaged.*Delete this file. Run the same command again: the stage {stage} "
        "runs anew, and what was generated comes from the journal",
    ):
        go_on()
    assert all(
        len(half.table(t)) == n
        for s in half.stages.values()
        for t, n in s["tables"].items()
        if t != table
    )
    file.unlink()
    done = go_on()
    assert tables(done) == tables(whole) and entries(done) == entries(whole)
    assert generated(done)[stage] == 0, "what was generated comes from the journal"


def test_training_log_cut_short(stopped, go_on, whole):
    half = stopped("distill")
    log = half.path("models", "aligned.log.parquet")
    cut(log, 100)
    half.path("align_log.parquet").unlink()
    with pytest.raises(
        ValueError, match=f"{log} is damaged.*Delete this file. .*this model is trained anew"
    ):
        go_on()
    log.unlink()
    assert tables(go_on()) == tables(whole)


@pytest.mark.parametrize(
    "table, stage",
    [
        ("drafts", "elicit"),
        ("prefset", "irt"),
        ("pairs", "pairs"),
        ("tailored_questions", "tailor"),
    ],
)
def test_deleted_table(stopped, go_on, world, whole, table, stage):
    """The stage that made it runs anew, and those after it, from the journal; no model is trained
    again. The same when that is interrupted."""
    half = stopped("unseen")
    half.path(f"{table}.parquet").unlink()
    world.learnt.clear()
    assert stage not in half.stages
    if stage != "tailor":
        stopped("align")
        assert list(half.stages)[-1] == "pairs", (
            "stages after it count as done although what they stand on was made anew"
        )
    done = go_on()
    assert tables(done) == tables(whole) and entries(done) == entries(whole) and not world.learnt
    assert not any(generated(done)[s] for s in list(done.stages)[list(done.stages).index(stage) :])


def test_damaged_list_of_models(stopped, go_on, whole):
    half = stopped("tailor")
    cut(half.path("models.json"), 50)
    with pytest.raises(
        ValueError, match="models.json is damaged.*Delete it and stages.json: all stages run anew"
    ):
        go_on()
    for name in ("models.json", "stages.json"):
        half.path(name).unlink()
    done = go_on()
    assert tables(done) == tables(whole) and entries(done) == entries(whole)


def test_killed_while_taking_over(world, whole, tmp_path, monkeypatch):
    "What another run has is taken over whole, also at the second try; its files stay as they are."
    before = {
        f: f.read_bytes() for f in whole.folder.rglob("*") if f.is_file() and f.name != "lock"
    }
    for name in ("_link", "os.replace"):
        with monkeypatch.context() as m:
            calls = []

            def dies(src, dst, real=shutil.copy2 if name == "_link" else os.replace):
                calls.append(dst)
                if len(calls) > 3 or Path(dst).name == "journal.db":
                    raise KeyboardInterrupt
                return real(src, dst)

            m.setattr(f"arte.run.pipeline.{name}", dies)
            with pytest.raises(KeyboardInterrupt):
                run(world.recipe({"eval.max_tokens": 99}), tmp_path / "next", whole.folder)
        assert calls and not (tmp_path / "next" / "journal.db").exists()
    world.learnt.clear()
    done = run(world.recipe({"eval.max_tokens": 99}), tmp_path / "next", whole.folder)
    assert not world.learnt and {k for k, n in generated(done).items() if n} == {"eval"}
    assert {f: f.read_bytes() for f in before} == before


def test_taking_over_from_what_is_no_run(world, whole, tmp_path):
    for folder in ("empty", "begun"):
        (tmp_path / folder).mkdir()
    shutil.copy(whole.path("recipe.yaml"), tmp_path / "begun")
    with pytest.raises(FileNotFoundError, match="empty holds no run"):
        run(world.recipe({}), tmp_path / "a", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="has generated nothing yet"):
        run(world.recipe({}), tmp_path / "b", tmp_path / "begun")
    (tmp_path / "begun" / "journal.db").write_bytes(whole.path("journal.db").read_bytes()[:2000])
    with pytest.raises(ValueError, match="begun/journal.db can't be read as a journal"):
        run(world.recipe({}), tmp_path / "c", tmp_path / "begun")


@pytest.mark.heavy
def test_full_disk(tiny_model, tmp_path):
    "On a small tmpfs, with real training: see `small_disk.py`."
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*unshare, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True
        ).returncode
    ):
        pytest.skip("no disk can be mounted here")
    done = subprocess.run(
        [*unshare, sys.executable, "-m", "support.small_disk", tiny_model, tmp_path],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    messages = json.loads(done.stdout)
    assert all(
        m.startswith("The disk is full: disk/") and "run the same command again" in m
        for m in messages
    )
    assert len(messages) >= 6
    for what in ("run/journal.db", "run/models/", "cache/"):
        assert any(what in m for m in messages), f"the disk was never full at {what}"
