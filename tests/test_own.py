"""Tasks of one's own by commands: from a CSV file that is no task of BBH to a report."""

import json
import re
import shutil

import pandas as pd
import pytest

from arte.core.recipes import load_recipe
from arte.run.cli import main
from arte.run.hub.cards import dataset_card, model_card
from arte.run.lmeval import process_results, read_docs
from arte.run.rundir import RunDir
from support import roman


@pytest.fixture
def scripts(monkeypatch):
    roman.use_scripts(monkeypatch)


def arte(capsys, *args):
    "Run a command; return its status and what it printed."
    status = main(list(map(str, args)))
    told = capsys.readouterr()
    return status, told.out + told.err


@pytest.mark.filterwarnings("ignore:Only .* items tell")
def test_from_csv_to_report(tiny_model, tmp_path, scripts, capsys):
    roman.write_csv(tmp_path / "roman.csv")
    recipe = roman.write_recipe(tmp_path, tiny_model, "[roman.csv]", "rounds: 2")
    status, told = arte(capsys, "plan", recipe)
    assert status == 0 and "mine: 1 tasks" in told, told
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run)
    assert status == 0, told
    done = RunDir(run)
    items = done.table("items")
    assert items.groupby("split").size().to_dict() == dict(seed=3, test=10, val=12)
    assert set(items.kind) == {"integer"} and not items.question.duplicated().any()
    assert done.stages["eval"]["counts"]["test_data"] == "own"
    page = (run / "report.html").read_text()
    assert "test items of the task&#x27;s own data" in page and "The paper's numbers" not in page
    assert "Could not be shown" not in page and "Not there" not in page

    stages = list(done.stages)
    # the run needs the file no more, and can be moved
    (tmp_path / "roman.csv").unlink()
    run.rename(tmp_path / "moved")
    run = tmp_path / "moved"
    status, told = arte(capsys, "run", run / "recipe.yaml", "--out", run)
    assert status == 0 and told.count("(done before)") == len(stages)
    status, told = arte(capsys, "export-lm-eval", run, "--out", tmp_path / "exported")
    assert status == 0, told
    assert "arte_own_0shot, arte_own_3shot" in told
    docs = (tmp_path / "exported" / "roman.jsonl").read_text().splitlines()
    assert len(docs) == 10 and "So the answer is" in json.loads(docs[0])["prompt_3shot"]
    for card in (dataset_card(RunDir(run)), model_card(RunDir(run))):
        assert "items of the task's own data" in str(card) and str(tmp_path) not in str(card)
    shutil.copytree(run, tmp_path / "copy")
    both = [run, tmp_path / "copy"]
    status, told = arte(capsys, "report", *both, "--out", tmp_path / "both.html")
    assert status == 0, told
    assert str(tmp_path / "copy" / "tasks") not in (tmp_path / "both.html").read_text()


def small(folder, model, task, more=""):
    "A recipe for one task file or data file, and what it says when its run begins."
    return roman.write_recipe(folder, model, f"[{task}]", more)


BAD_FILES = {
    "question\nWhat is 1?\n": "no column answer; got the columns question, expected question and",
    "question;answer\nWhat is 1?;1\n": "they seem to be separated by semicolons",
    "question,answer\n" + "".join(f"What is {i}?,{i if i else 'none'}\n" for i in range(30)): (
        "29 are of the kind integer, which looks like <ans>7</ans> or <ans>-12</ans>, and 1 are "
        "not: row 1 ('none')"
    ),
    "question,answer\n" + "".join(f"What is {i}?,{i}\n" for i in range(3)): (
        "roman has 3 questions, expected 25: 3 seeds and 12 validation items, and 10 for the test"
    ),
    "question,answer\nWhat is 1?,\n": "row 1: no answer to 'What is 1?'",
}


@pytest.mark.parametrize("text", BAD_FILES)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_bad_files(tiny_model, tmp_path, capsys, text, command):
    (tmp_path / "roman.csv").write_text(text)
    recipe = small(tmp_path, tiny_model, "roman.csv")
    out = ["--out", tmp_path / "run"] if command == "run" else []
    status, told = arte(capsys, command, recipe, *out)
    assert status == 2 and BAD_FILES[text] in told and "Traceback" not in told


def test_too_few_questions_say_what_can_be_done(tiny_model, tmp_path, capsys):
    roman.write_csv(tmp_path / "roman.csv", 20)
    recipe = small(tmp_path, tiny_model, "roman.csv")
    status, told = arte(capsys, "plan", recipe)
    assert status == 2 and "roman has 20 questions, expected 25" in told
    assert "{n_seed: 3, n_val: 8, n_test: 9}" in told and "18 points, and an accuracy" in told
    sizes = ["data.n_val=8", "data.n_test=9", "irt.k=8"]
    status, told = arte(capsys, "plan", recipe, "--set", *sizes)
    assert status == 0, told


GRADERS = """
import time
def same(answer, gold): return answer.strip() == gold
def half(answer): return answer.strip()[:1] or None
def fails(answer, gold): raise KeyError("units")
def no_grade(answer, gold): return "good"
def slow(answer, gold): time.sleep(60)
"""
BAD_GRADERS = {
    "fails": "python:graders.fails raised KeyError ('units') for the answer",
    "no_grade": "python:graders.no_grade returned 'good' for the answer",
    "slow": "python:graders.slow took more than 0.2 s for the answer",
    "nowhere": "kind python:graders.nowhere cannot be used: AttributeError",
}


def write_task(folder, kind, more=""):
    (folder / "graders.py").write_text(GRADERS)
    roman.write_csv(folder / "numerals.csv")
    about = f"data: numerals.csv\ndescription: Tell the number.\nkind: {kind}\n{more}"
    (folder / "roman.yaml").write_text(about)


@pytest.mark.parametrize("name", BAD_GRADERS)
def test_bad_graders(tiny_model, tmp_path, scripts, capsys, name):
    write_task(tmp_path, f"{{name: 'python:graders.{name}', seconds: 0.2}}")
    recipe = small(tmp_path, tiny_model, "roman.yaml")
    status, told = arte(capsys, "run", recipe, "--out", tmp_path / "run", "--until", "elicit")
    assert status == 2 and BAD_GRADERS[name] in told


@pytest.mark.filterwarnings("ignore:Only .* items tell")
def test_a_grader_of_ones_own(tiny_model, tmp_path, scripts, capsys):
    "It is kept in the run's folder, and goes into an export for the harness."
    write_task(tmp_path, "python:graders.same")
    recipe = small(tmp_path, tiny_model, "roman.yaml")
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run)
    assert status == 0, told
    results = RunDir(run).table("results")
    assert results.correct.any() and (results.correct == (results.parsed == results.gold)).all()
    assert (run / "tasks" / "graders.py").read_text() == GRADERS
    assert "Could not be shown" not in (run / "report.html").read_text()
    status, told = arte(capsys, "export-lm-eval", run, "--out", tmp_path / "out")
    assert status == 0, told
    doc = read_docs(tmp_path / "out" / "roman.jsonl")["test"][0]
    told = process_results(doc, [f"So the answer is <ans>{doc['answer']}</ans>"])
    assert told == dict(acc=1.0, unreadable=0.0)

    (tmp_path / "graders.py").write_text(GRADERS.replace("== gold", "!= gold"))
    status, told = arte(capsys, "run", recipe, "--out", run)
    assert status == 2 and "own: a file of roman has changed: its data, grader" in told


def test_stages_until_and_from(tiny_model, tmp_path, scripts, capsys):
    roman.write_csv(tmp_path / "roman.csv")
    recipe, run = small(tmp_path, tiny_model, "roman.csv"), tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run, "--until", "elicit")
    assert status == 0 and list(RunDir(run).stages)[-1] == "elicit", told
    drafts = RunDir(run).table("drafts")
    again = ["--from-stage", "elicit", "--until", "elicit"]
    status, told = arte(capsys, "run", recipe, "--out", run, *again)
    assert status == 0 and "prompts 0, from journal" in told, told
    assert told.count("(done before)") == 3 and RunDir(run).table("drafts").equals(drafts)
    status, told = arte(capsys, "run", recipe, "--out", run, "--until", "elict")
    assert status == 2 and "there is no stage 'elict'" in told and "Did you mean elicit?" in told


def test_new_and_try(tiny_model, tmp_path, scripts, capsys):
    file = roman.write_csv(tmp_path / "roman.csv", worked=True)
    status, told = arte(capsys, "new", file)
    assert (
        status == 2
        and "--description: is missing" in told
        and not (tmp_path / "roman.yaml").exists()
    )
    models = ["--teacher", tiny_model, "--student", tiny_model]
    status, told = arte(capsys, "new", file, "--description", "Tell the number.", *models)
    assert status == 0 and "40 questions, answers of the kind integer" in told, told
    assert "3 worked answers become" in told and "tokens in" in told
    recipe = tmp_path / "roman.yaml"
    status, told = arte(capsys, "new", file, "--description", "Tell it.", *models)
    assert status == 2 and "is there already" in told
    status, told = arte(capsys, "try", recipe)
    assert status == 0, told
    for step in ("drafting questions", "drafting rationales", "after a draft", "3 worked examples"):
        assert f"== {step}" in told or step in told
    assert "Task Description: Tell the number." in told and "reads plain prompts" in told


def test_new_asks_on_a_terminal(tiny_model, tmp_path, monkeypatch, capsys):
    "What is not given is asked for, until something is said."
    file, asked = roman.write_csv(tmp_path / "roman.csv"), []
    said = iter(["", "Tell the number.", str(tiny_model)])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or next(said))
    status, told = arte(capsys, "new", file, "--teacher", tiny_model, "--kind", "number")
    assert status == 0 and [text[:8] for text in asked] == ["What is ", "What is ", "The stud"], (
        told
    )
    recipe = load_recipe(tmp_path / "roman.yaml")
    assert recipe.own[0].description == "Tell the number." and recipe.own[0].kind.name == "number"


def test_an_unseen_task_of_ones_own_needs_worked_answers(tiny_model, tmp_path, capsys):
    roman.write_csv(tmp_path / "roman.csv")
    roman.write_csv(tmp_path / "other.csv")
    recipe = small(tmp_path, tiny_model, "roman.csv", "unseen: {tasks: [other.csv], examples: 4}")
    status, told = arte(capsys, "plan", recipe)
    assert status == 2 and "unseen.tasks[0]: other has 0 worked answers, expected 3" in told
    roman.write_csv(tmp_path / "other.csv", worked=True)
    status, told = arte(capsys, "plan", recipe)
    assert status == 0 and "for 1 tasks, 2 students" in told, told


def in_words(script):
    "A script that says even and odd instead of a number."

    def write(*asked):
        return re.sub("(<ans>|<target>)([0-9]+)", parity, script(*asked))

    return write


def parity(m):
    return m[1] + ("even" if int(m[2]) % 2 == 0 else "odd")


@pytest.mark.filterwarnings("ignore:Only .* items tell")
def test_labels_of_ones_own(tiny_model, tmp_path, monkeypatch, capsys):
    "Answers that repeat are labels, which can be forced; they are shown in the report."
    roman.use_scripts(monkeypatch, in_words(roman.teach), in_words(roman.learn))
    lines = [f"{roman.question(i)},{'odd' if i % 2 else 'even'}" for i in range(1, 41)]
    (tmp_path / "parity.csv").write_text("\n".join(["question,answer", *lines]))
    recipe, run = small(tmp_path, tiny_model, "parity.csv"), tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run)
    assert status == 0, told
    done = RunDir(run)
    assert set(done.table("items").kind) == {"labels"}
    assert set(done.table("forced").label) <= {"even", "odd"}
    assert set(done.table("results").gold) == {"even", "odd"}
    page = (run / "report.html").read_text()
    assert "draft answers" in page and "Could not be shown" not in page


def idle(prompt, sampling, draw):
    return "Certainly! I like numerals."


def never(prompt, sampling, draw):
    return " I do not know."


@pytest.mark.parametrize(
    "who, why", [("teacher", "0 usable questions"), ("student", "does not keep to the form")]
)
def test_try_finds_what_is_wrong(tiny_model, tmp_path, monkeypatch, capsys, who, why):
    roman.use_scripts(monkeypatch, **{who: dict(teacher=idle, student=never)[who]})
    roman.write_csv(tmp_path / "roman.csv")
    status, told = arte(capsys, "try", small(tmp_path, tiny_model, "roman.csv"))
    assert status == 0 and why in told and "Looks wrong: " in told


def test_splits_categories_and_worked_answers_of_the_file(tiny_model, tmp_path, scripts, capsys):
    lines = ["q,a,split,group,how"]
    for i in range(1, 41):
        split, group = "test" if i > 25 else "train", "even" if i % 2 == 0 else "odd"
        lines.append(f"{roman.question(i)},{i},{split},{group},{roman.numeral(i)} is {i}")
    (tmp_path / "numerals.csv").write_text("\n".join(lines))
    (tmp_path / "roman.yaml").write_text(
        "data: numerals.csv\ncolumns: {question: q, answer: a, category: group, worked: how}\n"
    )
    more = "controls: {examples: 4, margin: 0}\n"
    recipe = small(tmp_path, tiny_model, "roman.yaml", more)
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--out", run, "--until", "controls")
    assert status == 0, told
    done = RunDir(run)
    tests = done.table("items").query("split == 'test'")
    last = {roman.question(i) for i in range(26, 41)}
    assert set(tests.question) <= last and len(tests) == 10
    assert set(done.table("controls").category) == {"even", "odd"}
    assert len(done.table("control_examples")) == 8
    more = more.replace("4", "40")
    recipe = small(tmp_path, tiny_model, "roman.yaml", more)
    status, told = arte(capsys, "run", recipe, "--out", tmp_path / "other")
    assert status == 2 and "worked answers to spare" in told


def test_other_files_and_the_hub(tiny_model, tmp_path, monkeypatch, capsys):
    "JSON Lines, Parquet and a data set on the hub are the same task."
    monkeypatch.setenv("ARTE_CACHE", str(tmp_path / "cache"))
    rows = [dict(question=roman.question(i), answer=f"So.\n#### {i}") for i in range(1, 41)]
    (tmp_path / "roman.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame(rows).to_parquet(tmp_path / "roman.parquet")
    loaded = dict(train=rows[:25], test=rows[25:])
    monkeypatch.setattr("arte.data.own.source.load_from_hub", lambda name, config: loaded)
    items = {}
    for where in ("data: roman.jsonl", "data: roman.parquet", "hub: somebody/numerals"):
        (tmp_path / "roman.yaml").write_text(f"{where}\ncolumns: {{mark: '####'}}\n")
        recipe = small(tmp_path, tiny_model, "roman.yaml")
        run = tmp_path / f"run-{len(items)}"
        status, told = arte(capsys, "run", recipe, "--out", run, "--until", "items")
        assert status == 0, told
        items[where] = RunDir(run).table("items")
    first, second, hub = items.values()
    assert first.equals(second) and set(hub.answer) <= set(map(str, range(1, 41)))
    tests = set(hub.query("split == 'test'").question)
    assert tests <= {row["question"] for row in loaded["test"]}


def test_a_task_in_the_recipe_beside_a_built_in_one(tiny_model, tmp_path, capsys):
    roman.write_csv(tmp_path / "numerals.csv")
    inline = "{name: roman, data: numerals.csv, kind: integer}, boolean_expressions"
    sources = "unseen: {tasks: []}"
    recipe = small(tmp_path, tiny_model, inline, sources)
    both = ["data.items=generated", "data.test=generated"]
    run = tmp_path / "run"
    status, told = arte(capsys, "run", recipe, "--set", *both, "--out", run, "--until", "items")
    assert status == 0 and "test data generated+own" in told, told
    assert set(RunDir(run).table("items").task) == {"roman", "boolean_expressions"}
    (tmp_path / "navigate.csv").write_text((tmp_path / "numerals.csv").read_text())
    status, told = arte(capsys, "plan", small(tmp_path, tiny_model, "navigate.csv"))
    assert status == 2 and "navigate is the name of a built-in task" in told
    status, told = arte(capsys, "plan", small(tmp_path, tiny_model, "nowhere.csv"))
    assert status == 2 and "there is no file nowhere.csv" in told
