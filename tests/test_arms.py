"""What the settings of the training sets change in a whole run, on scripts (see `world`)."""

import pytest

from arte.core.basics import finished
from arte.run.plan.plan import plan
from arte.run.report import write_report
from arte.tailor import example_counts, readable
from support.world import World

ARMS = {"distill.arms": ["original", "question", "arte"]}
# the teacher's longer techniques are cut off at this length
CUT = ARMS | {"elicit.rationale_tokens": 25}


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield World(patch, tiny_model, tmp_path_factory.mktemp("world"))


def completions(run, arm):
    examples = run.table("examples")
    rows = examples[examples.arm == arm]
    return dict(zip(rows.question_id, rows.completion.str.strip()))


def test_question_only_by_a_technique_at_random(world):
    naive = world.first(ARMS)
    run, done = world.run(ARMS | {"tailor.question_rationales": "random"}, naive.folder)
    assert done == {"tailor", "student-question", "eval"}
    drafts = run.table("tailored_drafts")
    assert set(drafts.question_id) == set(run.table("tailored_questions").question_id)
    assert not drafts.question_id.duplicated().any() and drafts.technique.nunique() > 1
    assert not run.has("tailored_scores") and not naive.has("tailored_drafts")
    texts = drafts.set_index("question_id").rationale.str.strip()
    assert completions(run, "question") == {q: texts[q] for q in completions(run, "question")}
    assert completions(run, "arte") == completions(naive, "arte")


def test_question_only_by_the_best_scored_technique(world):
    naive = world.first(ARMS)
    run, done = world.run(ARMS | {"tailor.question_rationales": "best"}, naive.folder)
    assert {"tailor", "student-question"} <= done
    drafts, scores = run.table("tailored_drafts"), run.table("tailored_scores")
    techniques = run.recipe.elicit.techniques
    assert drafts.groupby("question_id").size().eq(techniques).all()
    s = scores[scores.level == "rationale"].set_index("id")
    assert set(s.index) == set(drafts.draft) and s.n.eq(run.recipe.irt.k).all()
    drafts["s"] = drafts.draft.map(s.s)
    best = drafts[drafts.s == drafts.groupby("question_id").s.transform("max")]
    written = completions(run, "question")
    for question, text in written.items():
        assert text in set(best[best.question_id == question].rationale.str.strip())


@pytest.mark.parametrize("how, more", [("naive", 0), ("random", 0), ("best", 1)])
def test_the_plan_counts_question_only(world, how, more):
    recipe = world.recipe(ARMS | {"tailor.question_rationales": how})
    t = plan(recipe).set_index("stage")
    drafts = recipe.elicit.questions * recipe.elicit.techniques
    least = plan(world.recipe(ARMS)).set_index("stage").prompts["tailor"]
    extra = drafts - recipe.elicit.questions + drafts * recipe.irt.k
    assert t.prompts["tailor"] == least + more * extra


def test_without_unfinished_rationales_in_pairs(world):
    first = world.first(CUT)
    drafts = first.table("drafts")
    cut = len(drafts) - sum(finished(drafts))
    assert 0 < cut < len(drafts)
    assert not all(finished(first.table("pairs"), "rejected_finish"))
    run, _ = world.run(CUT | {"pairs.unfinished": "drop"}, first.folder)
    pairs, counts = run.table("pairs"), run.stages["pairs"]["counts"]
    assert all(finished(pairs, "chosen_finish") + finished(pairs, "rejected_finish"))
    assert counts["unfinished rationales left out"] == cut
    notes = plan(run.recipe, first).attrs["notes"]
    assert any(f"cut off ({cut} of {len(drafts)} in" in note for note in notes)


@pytest.mark.parametrize(
    "field, value", [("distill.unfinished", "drop"), ("tailor.answered_only", True)]
)
def test_without_unfinished_examples(world, field, value):
    "Every arm keeps as many, all of them whole; the report says what was left out."
    first = world.first(CUT)
    assert not readable(first.table("examples").completion).all()
    run, _ = world.run(CUT | {field: value}, first.folder)
    examples, dropped = run.table("examples"), run.table("tailor_dropped")
    assert readable(examples.completion).all() and all(finished(examples))
    assert example_counts(examples).groupby("task").n.nunique().eq(1).all()
    assert set(dropped.reason) == {"cut off"} and set(dropped.arm) <= set(run.recipe.distill.arms)
    assert "Left out before the training sets were cut" in write_report(run.folder).read_text()
    notes = plan(run.recipe, first).attrs["notes"]
    assert any("every arm is cut to the smallest" in note for note in notes)


def test_the_loss_on_gold_rationales_of_every_student(world):
    run = world.first(ARMS)
    gold = run.table("gold")
    assert set(gold.arm) == {"vanilla", *run.recipe.distill.arms} and (gold.loss > 0).all()
    assert gold.groupby(["arm", "task"]).example.agg(list).map(lambda n: n == [1, 2, 3]).all()
    assert "gold rationales" in write_report(run.folder).read_text()
    assert not world.run(ARMS | {"eval.forced": False}, run.folder)[0].has("gold")
