"""The recorded run of `nbs/replay` goes through its stages again, from its journal alone."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from arte.run import engine
from arte.run.parts import PARTS
from arte.run.rundir import RunDir
from arte.run.stage import preference_items
from arte.run.stages import align

REPLAY = Path(__file__).parent.parent / "nbs" / "replay"
# The models' answers to BBH's test items are not recorded, training makes the models anew, and the
# fit of `irt` rounds differently on each kind of processor: its choice is taken from the recording.
RECORDED = ("recipe.yaml", "journal.db", "models.json", "items.parquet", "prefset.parquet")
STAGES = ("elicit", "prefer", "pairs", "heldout", "tailor")
TABLES = (
    "questions drafts aside answers scores pairs dropped heldout_drafts heldout "
    "tailored_questions tailor_aside tailor_dropped examples"
).split()


def refuse(run, role, *more):
    raise AssertionError(f"{role} would have to generate something that is not in the journal")


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    "The recording's recipe and journal, and the tables that the stages make of them."
    folder = tmp_path_factory.mktemp("replayed")
    for name in RECORDED:
        shutil.copy(REPLAY / name, folder)
    with pytest.MonkeyPatch.context() as patch, RunDir(folder, RunDir(REPLAY).recipe) as run:
        patch.setattr(engine, "live_engine", refuse)
        # the recorded run scored held-out questions on the preference set
        as_then = lambda run: preference_items(run).assign(set="pref")  # noqa: E731
        patch.setattr(align, "held_out_items", as_then)
        for stage in PARTS.stages:
            if stage.name in STAGES:
                stage.run(run, PARTS)
    return RunDir(folder)


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_the_recorded_one(replayed, name):
    recorded = pd.read_parquet(REPLAY / f"{name}.parquet")
    again = replayed.table(name)
    assert set(again) >= set(recorded)
    pd.testing.assert_frame_equal(again[list(recorded)], recorded, check_exact=True)


def test_new_columns(replayed):
    "What the recording does not have yet."
    assert (replayed.table("heldout")["set"] == "pref").all()
    ends = {"eos", "stop", "length", "repeat"}
    for name in ("drafts", "answers", "heldout_drafts", "examples"):
        assert set(replayed.table(name).finish) <= ends, name
    drafts = replayed.table("drafts")
    assert set(drafts.finish[drafts.answer.notna()]) == {"stop"}


def test_nothing_is_generated(replayed):
    before, after = (len(RunDir(folder).journal) for folder in (REPLAY, replayed.folder))
    assert before == after
