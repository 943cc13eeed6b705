"""A whole run: the real stages, tables, training and report; scripts generate, not models."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from arte.core.settings.training import Transfer, Unseen
from arte.run.rundir import RunDir
from arte.core.fields import RecipeError
from arte.elicit import NoQuestions
from arte.run.parts import PARTS, STAGES
from arte.run.pipeline import run, status
from arte.run.report import write_report
from support.scripted import student, teacher, use_scripts
from support.tiny import TASKS


@pytest.fixture(scope="module")
def first(recipe, tmp_path_factory):
    "A run from nothing, what was generated in it, and what it printed; others begin with it."
    generated, told = [], io.StringIO()
    with pytest.MonkeyPatch.context() as m, redirect_stdout(told):
        use_scripts(m, TASKS, generated)
        done = run(recipe, tmp_path_factory.mktemp("first") / "run")
    return SimpleNamespace(run=done, generated=generated, told=told.getvalue())


def test_a_whole_run_then_nothing_to_do(first, recipe, monkeypatch, capsys):
    done, generated = first.run, first.generated
    assert list(done.stages) == [stage.name for stage in STAGES]
    assert len(set(generated)) == len(generated), "something was generated twice"
    drafts, pairs, results = (done.table(t) for t in ("drafts", "pairs", "results"))
    assert drafts.groupby("question_id").size().eq(4).all() and drafts.question_id.nunique() == 16
    held = done.table("questions").query("held_out")
    assert len(held) == 6 and not set(held.question_id) & (
        set(drafts.question_id) | set(pairs.chosen_id)
    )
    assert (pairs.s_chosen > pairs.s_rejected).all() and set(pairs.kind) == {
        "rationale",
        "question",
    }
    assert results.groupby(["arm", "shots"]).size().eq(24).all() and results.arm.nunique() == 5
    examples = done.table("examples")
    assert examples.groupby("arm").size().nunique() == 1
    items = done.table("items")
    assert not items.item.duplicated().any()
    assert not set(items.question) & set(done.table("questions").question)
    page = write_report(done.folder).read_text()
    assert "Could not be shown" not in page and "Not there" not in page

    use_scripts(monkeypatch, TASKS, again := [])
    run(recipe, done.folder)
    assert not again and capsys.readouterr().out.count("(done before)") == len(STAGES)
    assert all(line.split()[0] in first.told for line in status(done.folder).splitlines()[1:])


def test_same_recipe_same_tables(first, recipe, tmp_path, monkeypatch):
    use_scripts(monkeypatch, TASKS)
    one, two = first.run, run(recipe, tmp_path / "again")
    for name in (
        "items",
        "questions",
        "drafts",
        "responses",
        "prefset",
        "scores",
        "pairs",
        "examples",
        "results",
        "forced",
    ):
        pd.testing.assert_frame_equal(one.table(name), two.table(name))


def interrupted_in(name, whole):
    "The parts of a run in which a stage stops when all is generated, as it saves its last table."
    stage = next(stage for stage in STAGES if stage.name == name)
    last = [table for table in stage.tables if whole.has(table)][-1]

    def save(folder, table, df, real=RunDir.save):
        if table == last:
            raise KeyboardInterrupt
        return real(folder, table, df)

    def go(folder, parts):
        with pytest.MonkeyPatch.context() as m:
            m.setattr(RunDir, "save", save)
            return stage.run(folder, parts)

    stages = [replace(s, run=go) if s.name == name else s for s in STAGES]
    return replace(PARTS, stages=tuple(stages))


def without_tags(prompt, sampling, draw):
    "A teacher whose answers cannot be read."
    return teacher(TASKS)(prompt, sampling, draw).replace("ans>", "answer>")


def test_an_unfit_teacher_stops_the_run(recipe, tmp_path, monkeypatch):
    "Nothing is lost: with a lower threshold the drafts are taken over."
    use_scripts(monkeypatch, TASKS, [], teacher=without_tags)
    strict = replace(recipe, elicit=replace(recipe.elicit, min_readable=0.5))
    with pytest.raises(
        RecipeError, match="0% of 32 rationales are readable, expected at least 50%"
    ):
        run(strict, tmp_path / "strict")
    stopped = RunDir(tmp_path / "strict")
    assert "elicit" not in stopped.stages and len(stopped.table("drafts")) == 64
    use_scripts(monkeypatch, TASKS, generated := [])
    until = [stage.name for stage in STAGES].index("elicit") + 1
    parts = replace(PARTS, stages=PARTS.stages[:until])
    after = run(recipe, tmp_path / "later", source=tmp_path / "strict", parts=parts)
    assert not generated, "drafts were written again"
    pd.testing.assert_frame_equal(after.table("drafts"), stopped.table("drafts"))


def test_a_teacher_that_alignment_broke_stops_the_run(recipe, tmp_path, monkeypatch):
    "Before it writes a training set; its texts can be looked at."
    use_scripts(monkeypatch, TASKS, [], aligned=without_tags)
    strict = replace(
        recipe,
        elicit=replace(recipe.elicit, min_readable=0.5),
        align=replace(recipe.align, held_out=8),
    )
    problem = "after alignment: .*0% of 8 rationales are readable, expected at least 50%"
    with pytest.raises(RecipeError, match=problem):
        run(strict, tmp_path / "broken")
    stopped = RunDir(tmp_path / "broken")
    assert "align" in stopped.stages and "heldout" not in stopped.stages
    readable = stopped.table("heldout_drafts").groupby("technique").answer.count()
    assert readable.to_dict() == {"before": 8 * len(TASKS), "after": 0}


def test_interrupted_in_any_stage_then_resumed(first, recipe, tmp_path, monkeypatch):
    "Nothing is generated twice, and the tables are those of an uninterrupted run."
    use_scripts(monkeypatch, TASKS, generated := [])
    for name in ("elicit", "irt", "prefer", "heldout", "tailor", "eval"):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "cut", parts=interrupted_in(name, first.run))
        assert name not in RunDir(tmp_path / "cut").stages
    got = run(recipe, tmp_path / "cut")
    assert sorted(generated) == sorted(first.generated)
    for name in ("drafts", "scores", "pairs", "examples", "results"):
        pd.testing.assert_frame_equal(got.table(name), first.run.table(name))


def test_teacher_without_questions_stops_and_keeps_its_outputs(recipe, tmp_path, monkeypatch):
    use_scripts(
        monkeypatch,
        TASKS,
        teacher=lambda prompt, sampling, draw: "Certainly! Here are some questions.",
    )
    with pytest.raises(NoQuestions, match="Certainly! Here are some questions"):
        run(recipe, tmp_path / "run")
    aside = RunDir(tmp_path / "run").table("aside")
    assert len(aside) and aside.text.str.contains("Certainly").any()


def test_student_that_never_answers_is_refused_before_anything_is_scored(
    recipe, tmp_path, monkeypatch
):

    def looping(prompt, sampling, draw):
        return " and so on and so on"

    use_scripts(monkeypatch, TASKS, student=looping)
    with pytest.raises(ValueError, match="answered alike by all"):
        run(recipe, tmp_path / "run")


def test_another_recipe_is_refused_by_the_first_difference(recipe, tmp_path, monkeypatch):
    use_scripts(monkeypatch, TASKS)
    RunDir(tmp_path / "run", recipe).close()
    with pytest.raises(ValueError, match="seed"):
        run(replace(recipe, seed=recipe.seed + 1), tmp_path / "run")


def test_another_recipe_takes_over_what_is_the_same(first, recipe, tmp_path, monkeypatch):
    import arte.run.stages.align as align_stage
    import arte.run.stages.train as train_stage

    generated, learnt, distill, one = [], [], train_stage.distill, first.run
    use_scripts(monkeypatch, TASKS, generated)
    monkeypatch.setattr(align_stage, "align", lambda *a, **k: pytest.fail("aligned again"))

    def noted(folder, examples, arm, **how):
        learnt.append(arm)
        return distill(folder, examples, arm, **how)

    monkeypatch.setattr(train_stage, "distill", noted)
    two = run(
        replace(
            recipe,
            distill=replace(recipe.distill, arms=("original", "random", "consistent", "arte")),
        ),
        tmp_path / "two",
        one.folder,
    )
    assert learnt == ["random", "consistent"]
    assert {role for role, *_ in generated} == {"student-random", "student-consistent"}
    for arm in ("vanilla", "original", "arte"):
        a, b = (
            t[t.arm == arm].reset_index(drop=True)
            for t in (one.table("results"), two.table("results"))
        )
        pd.testing.assert_frame_equal(a, b)
    questions = two.table("examples").groupby("arm").question_id.agg(set)
    assert questions["random"] == questions["consistent"] == questions["original"]


def test_unseen_tasks_and_other_students(first, recipe, tmp_path, monkeypatch):
    use_scripts(monkeypatch, [*TASKS, "sports_understanding"])
    more = replace(
        recipe,
        unseen=Unseen(("sports_understanding",), 6),
        transfer=Transfer((recipe.student.model,)),
        distill=replace(recipe.distill, arms=("original", "arte")),
    )
    done = run(more, tmp_path / "run", first.run.folder)
    unseen, transfer, scores = (done.table(t) for t in ("unseen", "transfer", "transfer_scores"))
    assert unseen.groupby(["arm", "shots"]).size().to_dict() == {
        (a, s): 12 for a in ("arte", "original") for s in (0, 3)
    } and set(unseen.task) == {"sports_understanding"}
    assert not set(done.table("pairs").task) & set(unseen.task)
    examples = done.table("unseen_examples")
    assert examples.groupby("arm").size().nunique() == 1
    assert set(transfer.arm) == {"vanilla", "original", "arte"} and set(transfer.item) == set(
        done.table("results").item
    )
    assert set(scores[scores.level == "rationale"].id) == set(done.table("drafts").draft)


def test_second_round_starts_from_the_aligned_teacher(first, recipe, tmp_path, monkeypatch):
    generated = []
    use_scripts(monkeypatch, TASKS, generated, **{"aligned-2": teacher(TASKS, skew=1)})
    done = run(replace(recipe, rounds=2), tmp_path / "run", first.run.folder)
    assert len(set(generated)) == len(generated), "something was generated twice"
    first, second = done.table("drafts"), done.table("round-2/drafts")
    held = done.table("questions").query("held_out")
    assert (
        len(second) == len(first)
        and not set(second.question_id) & set(held.question_id)
        and not set(second.draft) <= set(first.draft)
    )
    assert (
        set(done.table("round-2/pairs").chosen_id) <= set(second.draft) | set(second.question_id)
        and done.table("round-2/align_log").step.is_monotonic_increasing
    )
    assert {"aligned", "aligned-2"} <= set(done.models) and done.models["aligned"][
        "fingerprint"
    ] != done.models["aligned-2"]["fingerprint"]
    assert set(done.table("heldout").phase) == {"before", "round 1", "after"}
    asked = {role for role, *_ in generated}
    assert "aligned-2" in asked and any(
        "example questions" in prompt for role, prompt, *_ in generated if role == "aligned"
    )


def test_benchmarks_of_a_folder(first, recipe, tmp_path, monkeypatch):
    rows = [
        dict(
            question=f"Ann has {i} pens and gets {i} more. How many has she?",
            answer=f"She has {i} + {i} = {2 * i}.\n#### {2 * i}",
        )
        for i in range(1, 21)
    ]
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setenv("ARTE_BENCHMARKS", str(tmp_path))
    scripted = student(TASKS)

    def arte(prompt, *how):
        if "Ann has" not in prompt:
            return scripted(prompt, *how)
        pens = int(prompt.rsplit("Ann has ", 1)[1].split()[0])
        return f" So the answer is <ans>{2 * pens}</ans>"

    def vanilla(prompt, *how):
        return " no idea" if "Ann has" in prompt else scripted(prompt, *how)

    use_scripts(monkeypatch, TASKS, **{"student-arte": arte, "student": vanilla})
    done = run(
        replace(
            recipe,
            distill=replace(recipe.distill, arms=("arte",)),
            eval=replace(recipe.eval, benchmarks=("gsm8k",)),
        ),
        tmp_path / "run",
        first.run.folder,
    )
    assert done.table("benchmarks").groupby("arm").correct.mean().to_dict() == {
        "arte": 1,
        "vanilla": 0,
    }
