"""`kind: judge`: a model of the recipe decides which answers are right.

Roman numerals again (see `roman`), with right answers in words that no student repeats: "the
number 14". Scripts play the models; the judge is one of them, as in a run."""

import json
import re
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest

from arte.core.recipes import load_recipe
from arte.engines.journaled import Journaled
from arte.engines.protocol import FunctionEngine
from arte.models.folders import fingerprint
from arte.run.cli import main
from arte.run.rundir import RunDir
from support import roman
from support.scripted import chance
from support.world import World, copy_model

JUDGED = "Is the given answer right?"


def arte(capsys, *args):
    "Run a command; return its status and what it printed."
    status = main(list(map(str, args)))
    told = capsys.readouterr()
    return status, told.out + told.err


def numbers(prompt):
    "The right number and the given one of a judge's prompt."
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
    return [re.findall(r"\d+", lines[f"{name} answer"]) for name in ("Right", "Given")]


def decide(prompt):
    "A judge that knows numbers, and says nothing about zero."
    right, given = numbers(prompt)
    if given == ["0"]:
        return " It depends on the numeral."
    return " Yes" if right == given else " No. It is another number."


class Models:
    "Scripts for the models of a run; they note what is asked, and how many are open at a time."

    def __init__(self, monkeypatch, decide=decide):
        self.decide, self.asked, self.open, self.most_open = decide, [], set(), 0
        monkeypatch.setattr("arte.run.engine.live_engine", self.live)

    @property
    def judged(self):
        "What judges were asked: (model, prompt)."
        return [(name, prompt) for name, prompt in self.asked if JUDGED in prompt]

    def live(self, run, role, folder, engines=(), prompts=None):
        write = roman.teach if role.startswith(("teacher", "aligned")) else roman.learn
        name = run.models[role]["fingerprint"]

        def answer(prompt, sampling, draw):
            self.asked.append((name, prompt))
            if JUDGED in prompt:
                return self.decide(prompt)
            text = write(prompt, sampling, draw)
            same = chance(prompt) < 0.2  # now and then in the words of the right answer
            return re.sub("<ans>", "<ans>The number ", text) if same else text

        engine = FunctionEngine(answer, name, lambda p, text: [-chance(role, p, text)])
        self.open.add(engine)
        self.most_open = max(self.most_open, len(self.open))
        engine.close = partial(self.open.discard, engine)
        return engine


def graded(n=20):
    "Graded answers: every second one is wrong; one repeats the right answer; people err in one."
    lines = ["question,answer,response,right"]
    for i in range(1, n + 1):
        said = f"the number {i}" if i == 2 else f"I say {i if i % 2 == 0 else i + 7}"
        right = i % 2 == 0 and i != 4
        lines.append(f"{roman.question(i)},the number {i},{said},{'yes' if right else 'no'}")
    return "\n".join(lines)


def write_task(folder, model, task="", recipe=""):
    "Write data, graded answers, a task file and a recipe."
    lines = ["question,answer"] + [f"{roman.question(i)},the number {i}" for i in range(1, 41)]
    (folder / "numerals.csv").write_text("\n".join(lines))
    (folder / "graded.csv").write_text(graded())
    about = f"data: numerals.csv\ndescription: Tell the number.\nkind: judge\n{task}"
    (folder / "roman.yaml").write_text(about)
    return roman.write_recipe(folder, model, "[roman.yaml]", recipe)


SAMPLE = "judge_sample: graded.csv\n"


def grades_follow_verdicts(table):
    "Every answer is unreadable and wrong, or was judged, and nothing else makes it right."
    assert set(table.verdict.dropna()) <= {"same", "yes", "no", "undecided"}
    assert (table.verdict.isna() == table.parsed.isna()).all()
    assert (table.correct.astype(bool) == table.verdict.isin(["same", "yes"])).all()
    assert {"same", "yes"} <= set(table.verdict.dropna())


@pytest.mark.filterwarnings("ignore:Only .* items tell")
def test_drafts_are_scored_with_a_judge(tiny_model, tmp_path, monkeypatch, capsys):
    models = Models(monkeypatch)
    recipe = write_task(tmp_path, tiny_model, SAMPLE)
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run, "--until", "prefer")
    assert status == 0, told
    done = RunDir(run)
    for name in ("responses", "answers"):
        grades_follow_verdicts(done.table(name))
    assert (done.table("answers").verdict == "undecided").any()
    assert set(done.table("items").kind) == {"judge"}
    assert models.most_open == 1 and not models.open, "one model makes room for another"

    asked = [prompt for _, prompt in models.judged]
    assert len(asked) == len(set(asked)), "nothing is asked twice"
    teacher = done.models["teacher"]["fingerprint"]
    assert {name for name, _ in models.judged} == {teacher}
    counts = done.stages["prefer"]["counts"]
    table = done.table("answers")
    assert counts["judged"] == table.verdict.isin(["yes", "no", "undecided"]).sum()
    assert counts["undecided"] == (table.verdict == "undecided").sum() > 0.1 * counts["judged"]
    warning = f"the judge was undecided about {counts['undecided']} of {counts['judged']} answers"
    assert warning in counts["WARNING"] and f"WARNING: {warning}" in told
    status, told = arte(capsys, "status", run)
    assert warning in told and "judge's agreement 18 of 19" in told

    sample = done.table("judge_sample")
    assert list(sample.verdict[:4]) == ["no", "same", "no", "yes"] and len(sample) == 20
    page = write_page(capsys, run)
    assert "94.7 % [75.4, 99.1]" in page
    assert "Where they differ" in page and "I say 4" in page and JUDGED in page
    assert "Could not be shown" not in page


def write_page(capsys, run):
    status, told = arte(capsys, "report", run)
    assert status == 0, told
    return (run / "report.html").read_text()


def test_a_killed_judge_goes_on(tiny_model, tmp_path, monkeypatch, capsys):
    "Killed in the middle of its verdicts; what was decided is not asked again."
    monkeypatch.setattr("arte.run.engine.Journaled", partial(Journaled, chunk=4))
    whole, told = Models(monkeypatch), ""
    recipe = write_task(tmp_path, tiny_model, SAMPLE)
    until = ["--until", "irt"]
    status, told = arte(capsys, "run", recipe, "--out", tmp_path / "whole", *until)
    assert status == 0, told

    killed = Models(monkeypatch)

    def die(prompt):
        if len(killed.judged) == 30:
            raise KeyboardInterrupt
        return decide(prompt)

    killed.decide = die
    arte_killed = partial(arte, capsys, "run", recipe, "--out", tmp_path / "run", *until)
    try:
        status, told = arte_killed()
        assert status != 0
    except KeyboardInterrupt:
        pass
    before = list(killed.judged)
    assert len(before) == 30 and "irt" not in RunDir(tmp_path / "run").stages
    status, told = arte_killed()
    assert status == 0, told
    again = set(before) & set(killed.judged[30:])
    assert len(again) <= 4, "only the chunk that was under way is asked again"
    assert set(killed.judged) == set(whole.judged)
    for name in ("responses", "judge_sample", "prefset"):
        assert RunDir(tmp_path / "run").table(name).equals(RunDir(tmp_path / "whole").table(name))


def test_a_judge_that_cannot_decide(tiny_model, tmp_path, monkeypatch, capsys):
    "Nothing is right but what repeats a right answer; status and report say so."
    Models(monkeypatch, lambda prompt: " The given answer is")
    recipe = write_task(tmp_path, tiny_model, SAMPLE)
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run, "--until", "irt")
    assert status == 0, told
    assert "WARNING: the judge was undecided about" in told and "judge: teacher or student" in told
    assert "WARNING: the judge of roman agrees with people on 58% of 19 answers" in told
    responses = RunDir(run).table("responses")
    assert set(responses.verdict.dropna()) == {"same", "undecided"}
    assert (responses.correct == (responses.verdict == "same")).all()
    page = write_page(capsys, run)
    assert "was undecided about" in page and "κ = 0.00" in page
    status, told = arte(capsys, "try", recipe)
    assert status == 0 and "== the judge" in told and "The given answer is" in told
    assert "!! the judge was undecided about" in told and "on 11 of 19 graded answers" in told


def test_the_student_may_judge_and_nobody_measure_it(tiny_model, tmp_path, monkeypatch, capsys):
    models = Models(monkeypatch)
    prompt = "judge_prompt: |\n  {question}\n  Right answer: {answer}\n  Given answer: {response}\n"
    recipe = write_task(tmp_path, tiny_model, f"judge: student\n{prompt}  {JUDGED}\n")
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run, "--until", "irt")
    assert status == 0 and "judge's agreement not measured" in told, told
    done = RunDir(run)
    assert {name for name, _ in models.judged} == {done.models["student"]["fingerprint"]}
    assert all(prompt.startswith("What number is") for _, prompt in models.judged)
    page = write_page(capsys, run)
    assert "not measured" in page and "nobody knows how often the judge is wrong" in page
    assert "the student, before it learns" in page
    status, told = arte(capsys, "try", recipe)
    assert status == 0 and "nobody graded answers to compare it with" in told


WRONG = {
    "judge: everyone\n": "judge: got 'everyone', expected one of teacher, student",
    "judge_prompt: Is {response} right?\n": "without {question} and {answer}",
    "judge_sample: nowhere.csv\n": "there is no file nowhere.csv",
    "judge_sample: numerals.csv\n": "numerals.csv, row 1: no response; expected the columns",
    "judge_samples: graded.csv\n": "Did you mean own.judge_sample?",
    "kind: text\njudge: student\n": "got it with kind text, which needs no judge",
    "kind: text\njudge_sample: graded.csv\n": "Write: kind: judge",
    "kind: {name: judge, tolerance: 0.1}\n": "which has no distances",
    "kind: {name: judge, pattern: a+}\n": "which has a form already",
    "kind: juge\n": "no answer kind 'juge': expected auto",
}


@pytest.mark.parametrize("task", WRONG)
def test_wrong_settings(tiny_model, tmp_path, capsys, task):
    recipe = write_task(tmp_path, tiny_model, task)
    if "kind:" in task:
        file = tmp_path / "roman.yaml"
        file.write_text(file.read_text().replace("kind: judge\n", "", 1))
    status, told = arte(capsys, "plan", recipe)
    assert status == 2 and WRONG[task] in told and "Traceback" not in told


@pytest.mark.parametrize(
    "setting, why",
    [
        ("prefer.signal=likelihood", "it knows one wording only"),
        ("prefer.rule=elimination", "a judge is opened after each round"),
        ("tailor.drop_contradictions=true", "other words are no contradiction"),
    ],
)
def test_what_a_judge_cannot_do(tiny_model, tmp_path, capsys, setting, why):
    recipe = write_task(tmp_path, tiny_model)
    status, told = arte(capsys, "plan", recipe, "--set", setting)
    assert status == 2 and why in told and "a judge grades roman" in told


def test_plan_new_and_export(tiny_model, tmp_path, capsys):
    recipe = write_task(tmp_path, tiny_model, SAMPLE)
    status, told = arte(capsys, "plan", recipe)
    assert status == 0, told
    assert "Judge: the teacher decides about roman, at most one prompt an answer" in told
    assert "on 20 graded answers" in told
    status, told = arte(capsys, "export-lm-eval", recipe, "--out", tmp_path / "out")
    assert status == 2 and "are graded by a judge" in told and not (tmp_path / "out").exists()
    models = ["--teacher", tiny_model, "--student", tiny_model]
    file = tmp_path / "numerals.csv"
    about = ["--description", "Tell the number.", "--kind", "judge"]
    status, told = arte(capsys, "new", file, *about, *models)
    assert status == 0 and "answers of the kind judge" in told, told
    own = load_recipe(tmp_path / "numerals.yaml").own[0]
    assert (own.kind.name, own.judge, own.judge_sample) == ("judge", "teacher", None)
    assert "# judge_sample: graded.csv" in (tmp_path / "numerals.yaml").read_text()


@pytest.mark.filterwarnings("ignore:Only .* items tell")
def test_from_csv_to_report(tiny_model, tmp_path, monkeypatch, capsys):
    """Through all stages: the judge of every round is the teacher before alignment.

    Files take the place of trained models (see `world`)."""
    (tmp_path / "world").mkdir()
    World(monkeypatch, tiny_model, tmp_path / "world")
    models = Models(monkeypatch)
    recipe = write_task(tmp_path, tiny_model, SAMPLE, "rounds: 2")
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run)
    assert status == 0, told
    done = RunDir(run)
    teacher = done.models["teacher"]["fingerprint"]
    assert {name for name, _ in models.judged} == {teacher} and models.most_open == 1
    assert len(models.judged) == len(set(models.judged))
    for table in (done.table("results"), RunDir(run / "round-2").table("answers")):
        grades_follow_verdicts(table)
    for stage in ("irt", "prefer", "rounds", "heldout", "eval"):
        assert done.stages[stage]["counts"]["judged"] > 0, stage
    page = (run / "report.html").read_text()
    section = page.split('id="the-judge"')[1].split("</section>")[0]
    assert "test: arte" in section and "Could not be shown" not in section
    # the run needs its files no more
    for name in ("graded.csv", "numerals.csv", "roman.yaml"):
        (tmp_path / name).unlink()
    n = len(models.asked)
    status, told = arte(capsys, "run", run / "recipe.yaml", "--out", run, "--from-stage", "eval")
    assert status == 0 and len(models.asked) == n, "all verdicts come from the journal"
    kept = run / "tasks" / "roman-judged.csv"
    kept.write_text(kept.read_text().replace("yes", "no"))
    status, told = arte(capsys, "run", run / "recipe.yaml", "--out", run)
    assert status == 2 and "have changed" in told or "not those with which" in told


def write_set(folder):
    "Write a training set of worked numerals, half of them with steps."
    rows = []
    for i in range(41, 49):
        steps = (
            "" if i % 2 else f"{roman.numeral(i)[0]} is 10. Another is 1. So it is more than 10. "
        )
        rows.append(dict(prompt=roman.question(i), completion=f"{steps}<ans>{i}</ans>"))
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_score_with_a_judge(tiny_model, tmp_path, monkeypatch, capsys):
    "The judge of `arte score` is any model; it takes turns with the student."
    models = Models(monkeypatch)
    for name in ("student", "judge"):
        copy_model(tiny_model, tmp_path / name, name)

    def opened(folder, options, settings):
        name = fingerprint(folder)
        run = SimpleNamespace(models={"student": dict(fingerprint=name)})
        return models.live(run, "student", folder)

    monkeypatch.setattr("arte.run.sets.folder.open_model", opened)
    write_task(tmp_path, tiny_model)
    write_set(tmp_path)
    validation = tmp_path / "numerals.csv"
    how = ["--student", tmp_path / "student", "--validation", validation, "--max-tokens", "60"]
    score = partial(arte, capsys, "score", tmp_path / "train.jsonl", *how, "--chat", "off")
    status, told = score("--judge", tmp_path / "judge", "--judge-sample", tmp_path / "graded.csv")
    assert status == 0, told
    assert "answers of the kind judge" in told and "agrees with people on 18 of 19" in told
    assert "WARNING: the judge was undecided about" in told and models.most_open == 1
    assert {name for name, _ in models.judged} == {fingerprint(tmp_path / "judge")}
    grades_follow_verdicts(pd.read_parquet(tmp_path / "train-scores" / "answers.parquet"))
    assert "18 of 19" in (tmp_path / "train-scores" / "report.html").read_text()
    n = len(models.asked)
    status, told = score("--judge", tmp_path / "judge")
    assert status == 0 and len(models.asked) == n and "Nobody graded answers" in told

    for more, why in {
        ("--kind", "judge"): "--kind judge: say which model decides",
        ("--judge", "m", "--kind", "text"): "--kind text does not go with --judge",
        ("--judge", "m", "--signal", "likelihood"): "knows one wording",
        ("--judge", "m", "--rule", "elimination", "--keep", "2"): "take turns",
        ("--judge-sample", str(tmp_path / "graded.csv")): "name its model with --judge",
    }.items():
        status, told = score(*more)
        assert status == 2 and why in told, told


@pytest.mark.filterwarnings("ignore:Only .* items tell")
def test_every_stage_that_grades_has_the_judge(tiny_model, tmp_path, monkeypatch, capsys):
    "Controls, the search for a prompt, unseen tasks and other students."
    (tmp_path / "world").mkdir()
    world = World(monkeypatch, tiny_model, tmp_path / "world")
    models = Models(monkeypatch)
    more = f"""
controls: {{examples: 4, margin: 0}}
unseen: {{tasks: [unseen.yaml], examples: 2}}
transfer: {{students: ["{world.models["other"]}"]}}
"""
    recipe = write_task(tmp_path, tiny_model, SAMPLE, more)
    lines = ["question,answer,worked"]
    for i in range(1, 41):
        solved = f"{roman.numeral(i)} is {i}"
        lines.append(f"{roman.question(i)},the number {i},{solved}")
    (tmp_path / "numerals.csv").write_text("\n".join(lines))
    unseen = [line.replace("What number", "Which number") for line in lines]
    (tmp_path / "unseen.csv").write_text("\n".join(unseen))
    about = "data: unseen.csv\nkind: judge\ndescription: Say which number it is.\n"
    (tmp_path / "unseen.yaml").write_text(about)
    run, prompts = tmp_path / "run", ["align.method=prompt", "align.prompt.questions=2"]
    status, told = arte(capsys, "run", recipe, "--out", run, "--set", *prompts)
    assert status == 0, told
    done = RunDir(run)
    for name in ("controls", "unseen", "transfer"):
        grades_follow_verdicts(done.table(name))
    for stage in ("controls", "align", "unseen", "transfer"):
        assert done.stages[stage]["counts"]["judged"] > 0, stage
    assert set(done.table("judges").task) == {"roman", "unseen"} and models.most_open == 1
    section = (run / "report.html").read_text().split('id="the-judge"')[1].split("</section>")[0]
    for place in ("controls", "unseen tasks", "other students", "not measured"):
        assert f">{place}<" in section, place
