"What takes the place of DPO: a search for a prompt, or nothing (see `world`)."

import pytest

from arte.core.fields import RecipeError
from arte.align import alignment_gain
from arte.core.prompts import naive_prompt
from arte.core.tasks import get_task
from arte.run.parts import PARTS
from arte.run.plan.plan import plan
from arte.run.report import write_report
from support.world import World

PROMPT = {
    "align.method": "prompt",
    "align.prompt.rounds": 3,
    "align.prompt.questions": 3,
    "align.prompt.examples": 1,
    "align.held_out": 2,
}


@pytest.fixture
def world(tiny_model, tmp_path, monkeypatch):
    return World(monkeypatch, tiny_model, tmp_path)


def test_a_search_takes_the_place_of_training(world):
    run, did = world.run(PROMPT)
    assert "aligned" not in did and not run.has("align_log")
    prompts, choice = run.table("prompts"), run.table("prompt_choice")
    assert prompts.prompt.nunique() == 5 and set(prompts.groupby("prompt").size()) == {3}
    assert prompts[prompts.prompt == 0].text.eq("").all()
    assert prompts[prompts.prompt == 1].text.str.startswith("These answers helped").all()
    assert prompts[prompts.prompt == 2].text.str.startswith("Write like").all()
    assert (prompts.parent < prompts.prompt).all()
    # what decides was not searched, and what measures did neither
    held_out = run.table("questions").query("held_out").question_id
    assert not set(prompts.question_id) & set(held_out)
    teacher, aligned = run.models["teacher"], run.models["aligned"]
    assert aligned["fingerprint"] == teacher["fingerprint"]
    assert bool(aligned["guidance"]) == bool(choice.used.any())
    assert alignment_gain(run.table("heldout")).questions.iloc[-1] == 2
    page = write_report(run.folder).read_text()
    assert "Prompt search" in page and "deciding questions" in page


def asked_behind(run, text):
    "Naive prompts in the journal with a text in front."
    rows = run.journal.db.execute("SELECT prompt FROM completions").fetchall()
    task = get_task(run.recipe.tasks[0])
    head = naive_prompt(task, "").partition("\n")[0]
    return [p for (p,) in rows if text in p and head in p.partition(text)[2]]


@pytest.mark.parametrize("used", [True, False])
def test_the_prompt_is_used_only_if_it_is_better(world, monkeypatch, used):
    "Then the training set is written with it; else the aligned teacher is the teacher."
    judged = dict(questions=3, naive=0.5, evolved=0.6, gain=0.1, lo=0.0, hi=0.2, used=used)
    monkeypatch.setattr("arte.run.evolve.search.judge", lambda *a: judged)
    run, _ = world.run(PROMPT)
    choice = run.table("prompt_choice").iloc[0]
    prompts = run.table("prompts")
    text = prompts[prompts.prompt == choice.prompt].text.iloc[0]
    assert list(run.models["aligned"]["guidance"].values()) == ([text] if used and text else [])
    heldout = run.table("heldout_drafts").pivot(
        index="question_id", columns="technique", values="rationale"
    )
    if not used:
        assert heldout.before.equals(heldout.after.rename("before"))
    elif text:
        tailored = run.table("tailored_questions").question
        behind = asked_behind(run, text)
        assert all(any(f"Question: {q}\n" in p for p in behind) for q in tailored)


def test_a_teacher_that_writes_no_instruction(world, monkeypatch):
    "Nothing is added; examples alone may still be used."
    monkeypatch.setattr("arte.run.evolve.search.read_instruction", lambda text: None)
    run, _ = world.run(PROMPT)
    assert set(run.table("prompts").prompt) == {0, 1}


def test_the_search_is_planned(world):
    table, trained = plan(world.recipe(PROMPT)), plan(world.recipe({}))
    a, b = (t.set_index("stage") for t in (table, trained))
    assert a.steps["align"] == 0 and a.prompts["align"] > 0 and "prompt" in a.makes["align"]
    assert a.tokens_in["tailor"] > b.tokens_in["tailor"]


NONE = {"align.method": "none", "distill.arms": ["original", "random", "consistent"]}


def test_none_only_selects(world):
    run, did = world.run(NONE)
    assert {"student-original", "student-random", "student-consistent"} <= did
    assert not did & {"aligned", "align", "heldout", "tailor"} and "aligned" not in run.models
    assert set(run.table("examples").arm) == set(NONE["distill.arms"])
    table = plan(run.recipe).set_index("stage")
    assert table.prompts[["align", "heldout", "tailor"]].sum() == 0
    assert "Could not be shown" not in write_report(run.folder).read_text()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"distill.arms": ["original", "arte"]}, "distill.arms: got arte with align.method: none"),
        ({"rounds": 2}, "rounds: got 2 with align.method: none"),
        ({"unseen.tasks": ["sports_understanding"]}, "unseen.tasks: got tasks with align.method"),
    ],
)
def test_what_needs_an_aligned_teacher_is_refused(world, settings, message):
    with pytest.raises(RecipeError, match=message):
        PARTS.check(world.recipe(NONE | settings))
