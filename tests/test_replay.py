"""The recorded run of `nbs/replay` goes through its stages again, from its journal alone."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from arte.core.tags import parse_questions, renumber
from arte.core.tasks import builtin_tasks
from arte.elicit import usable_target
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
# The answers of question pairs are the teacher's own words; recorded were its questions in new
# tags, with the target in normal form. A test of its own compares them.
WORDS = ["pair", "chosen", "rejected"]


def refuse(run, role, *more):
    raise AssertionError(f"{role} would have to generate something that is not in the journal")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    "The recording's recipe and journal with the tables that the stages make, and their counts."
    counts = {}
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
                counts[stage.name] = stage.run(run, PARTS)
    return RunDir(folder), counts


@pytest.fixture(scope="module")
def replayed(outcome):
    return outcome[0]


def test_a_task_at_the_students_floor_is_a_warning_of_the_pairs(outcome):
    warning = outcome[1]["pairs"]["WARNING"]
    assert warning.startswith(
        "object_counting: no pair is left of 8 questions (8 × tied). The stud"
    )
    assert warning.endswith(
        "is at its floor: with each of the 32 rationales it scores 0%, and 100% "
        "of its answers were unreadable. Raise prefer.max_tokens, or take a student that reaches "
        "an answer."
    )


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_the_recorded_one(replayed, name):
    recorded = pd.read_parquet(REPLAY / f"{name}.parquet")
    again = replayed.table(name)
    assert set(again) >= set(recorded)
    if name == "pairs":
        for table in (recorded, again):
            table.loc[table.kind == "question", WORDS] = "compared below"
    pd.testing.assert_frame_equal(again[list(recorded)], recorded, check_exact=True)


def same_question(now, then, task):
    "Compare two tagged questions by their text and by the normal form of their target."
    ((now,), left), ((then,), _) = parse_questions(now), parse_questions(then)
    target = usable_target(now.question, now.target, builtin_tasks()[task].kind)
    return (now.question, target, left) == (then.question, then.target, [])


def test_answers_of_question_pairs_are_the_teachers_own_words(replayed):
    recorded, again = pd.read_parquet(REPLAY / "pairs.parquet"), replayed.table("pairs")
    written = replayed.table("questions").set_index("question_id").text
    other = 0
    for pair in again[again.kind == "question"].itertuples():
        before = recorded.loc[pair.Index]
        for side in ("chosen", "rejected"):
            text = getattr(pair, side)
            assert text == renumber(written[getattr(pair, f"{side}_id")], 4)
            assert same_question(text, before[side], pair.task)
            other += text != before[side]
    assert other  # the recording has "No" where the teacher wrote "no"


def test_new_columns(replayed):
    "What the recording does not have yet."
    assert (replayed.table("heldout")["set"] == "pref").all()
    ends = {"eos", "stop", "length", "repeat"}
    for name in ("drafts", "answers", "heldout_drafts", "examples"):
        assert set(replayed.table(name).finish) <= ends, name
    drafts = replayed.table("drafts")
    assert set(drafts.finish[drafts.answer.notna()]) == {"stop"}
    pairs, finish = replayed.table("pairs"), drafts.set_index("draft").finish
    of_rationales = pairs[pairs.kind == "rationale"]
    for side in ("chosen", "rejected"):
        ends = of_rationales[f"{side}_id"].map(finish)
        assert of_rationales[f"{side}_finish"].tolist() == ends.tolist()
        assert set(pairs[pairs.kind == "question"][f"{side}_finish"]) == {"stop"}


def test_nothing_is_generated(replayed):
    before, after = (len(RunDir(folder).journal) for folder in (REPLAY, replayed.folder))
    assert before == after
