"Training sets as files: what a run's student learned from, and sets that one already has."

import csv
import json

import pandas as pd
import pytest

from arte.data.generated.tasks import make_items, solve, write_rationale
from arte.distill import arm_examples
from arte.engines.protocol import FunctionEngine
from arte.models.folders import fingerprint
from arte.run.cli import main
from arte.run.sets.export import FORMATS
from support.scripted import chance
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


# arte score


def short_is_good(prompt, sampling, draw):
    "Right if the example is short; without one, half of the time."
    head, question = prompt.rsplit("Question: ", 1)
    question = question.split("\nAnswer:")[0]
    words = len(head.split("Question: ")[-1].split()) if "Question: " in head else 0
    right = chance(prompt) < (0.5 if not words else 0.9 if words < 30 else 0.2)
    return f" So it is <ans>{solve(TASK, question) if right else 'none'}</ans>"


TASK = "boolean_expressions"


@pytest.fixture
def asked(tiny_model, tmp_path, monkeypatch):
    "A training set, a validation file, and a student that is a script; what it was asked."
    prompts = []

    def answer(prompt, *how):
        prompts.append(prompt)
        return short_is_good(prompt, *how)

    def likely(prompt, continuation):
        return [-1.0 if "Well." not in prompt else -2.0]

    def opened(folder, options, settings):
        return FunctionEngine(answer, fingerprint(folder), likely)

    monkeypatch.setattr("arte.run.sets.folder.open_model", opened)
    with open(tmp_path / "val.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["question", "answer"])
        writer.writerows([i.question, i.answer] for i in make_items(TASK, 20, 1))
    return prompts


def exchanges(n=12):
    "Questions with short and long answers in turn."
    for i, item in enumerate(make_items(TASK, n, 5)):
        text = write_rationale(item, TASK, "plain" if i % 2 else "recall")
        yield item.question, text + " Well." * (0 if i % 2 else 40)


FORMS = {
    "chat": lambda q, a: dict(
        messages=[dict(role="user", content=q), dict(role="assistant", content=a)]
    ),
    "sharegpt": lambda q, a: dict(
        conversations=[{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    ),
    "alpaca": lambda q, a: dict(instruction=q, input="", output=a),
    "completion": lambda q, a: dict(prompt=q, completion=a),
    "rationale": lambda q, a: dict(question=q, rationale=a),
}


def write_set(path, form="chat", n=12):
    rows = [FORMS[form](*e) | dict(source=f"s{i % 3}") for i, e in enumerate(exchanges(n))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


@pytest.fixture
def score(arte, tiny_model, tmp_path):
    def command(*args):
        must = ("--student", tiny_model, "--validation", tmp_path / "val.csv")
        return arte("score", tmp_path / "set.jsonl", *must, *args)

    return command


@pytest.mark.parametrize("here", [True, False])
def test_score_by_a_function_of_ones_own(asked, score, tmp_path, monkeypatch, here):
    "It is found beside the validation file, and in the folder where the command is given."
    write_set(tmp_path / "set.jsonl")
    place = tmp_path if here else tmp_path / "elsewhere"
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    (place / "marks.py").write_text("def same(answer, gold):\n    return answer == gold\n")
    status, out, err = score("--kind", "python:marks.same")
    assert (status, err) == (0, "") and "answers of the kind python:marks.same" in out
    status, _, err = score("--kind", "python:nowhere.same")
    assert status == 2 and "no such file beside the data, or in this folder" in err


@pytest.mark.parametrize("form", FORMS)
def test_score(asked, score, tmp_path, form):
    "Each form comes back with the scores as columns; the short half is kept."
    rows = write_set(tmp_path / "set.jsonl", form)
    status, out, err = score("--keep", 6)
    assert (status, err) == (0, "")
    assert f"has the form {form}" in out and "12 examples × 20 items: 240 answers" in out
    assert "answers of the kind truefalse" in out and "Without an example: " in out
    back = rows_of(tmp_path / "set-scores" / "scored.jsonl")
    names = ("preference", "preference_se", "preference_items")
    assert [{k: v for k, v in row.items() if k not in names} for row in back] == rows
    assert all(row["preference_items"] == 20 for row in back)
    kept = rows_of(tmp_path / "set-scores" / "kept.jsonl")
    assert kept == back[1::2]  # in the order of the set
    page = (tmp_path / "set-scores" / "report.html").read_text()
    assert all(o in page for o in ("By length", "By source", "Best", "Worst", "Noise"))


def test_score_resumes(asked, score, tmp_path):
    "A command that was stopped goes on; other choices ask nothing again."
    write_set(tmp_path / "set.jsonl")
    assert score()[0] == 0
    first = list(asked)
    assert len(first) == len(set(first)) == 240 + 20
    for more in ((), ("--above", 0.5), ("--items", 8), ("--rule", "elimination", "--keep", 3)):
        assert score(*more)[0] == 0
        assert asked == first, more


def test_score_by_likelihood(asked, score, tmp_path):
    write_set(tmp_path / "set.jsonl")
    status, out, _ = score("--signal", "likelihood", "--keep", 6)
    assert status == 0 and not asked and "to write" not in out
    kept = rows_of(tmp_path / "set-scores" / "kept.jsonl")
    assert kept == rows_of(tmp_path / "set-scores" / "scored.jsonl")[1::2]


def test_score_by_elimination_asks_less(asked, score, tmp_path):
    write_set(tmp_path / "set.jsonl")
    assert score("--rule", "elimination", "--keep", 6)[0] == 0
    assert len(asked) < 20 + 240
    kept = rows_of(tmp_path / "set-scores" / "kept.jsonl")
    assert len(kept) == 6 and kept == rows_of(tmp_path / "set-scores" / "scored.jsonl")[1::2]


def test_an_example_that_is_too_long_has_no_score(asked, score, tmp_path):
    write_set(tmp_path / "set.jsonl")
    with open(tmp_path / "set.jsonl", "a") as f:
        f.write(json.dumps(FORMS["chat"]("Is it?", "Well. " * 5000) | dict(source="s0")) + "\n")
    status, out, _ = score()
    assert status == 0 and "1 more are too long for the student" in out
    assert rows_of(tmp_path / "set-scores" / "scored.jsonl")[-1]["preference"] is None


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"text": "2 + 2 = 4"}', "has the columns text, which is no form of a training set"),
        ("[1, 2]", "row 1: expected named columns"),
        ("", "has no rows"),
        ('{"prompt": "a", "completion": 4}', "row 1: expected a text in the column 'completion'"),
        ('{"messages": [{"role": "user"}]}', "expected the column 'content'"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "row 1: the question is empty"),
        ('{"question": "a", "rationale": "b"}\n{"question": "c"}', "row 2: expected a text"),
    ],
)
def test_a_set_of_no_known_form_is_refused(asked, score, tmp_path, text, message):
    (tmp_path / "set.jsonl").write_text(text)
    status, out, err = score()
    assert status == 2 and message in err and "Traceback" not in err and not asked
    if "no form" in message:
        assert "Known are chat (messages); sharegpt (conversations); alpaca (instruction" in err
    assert not (tmp_path / "set-scores").exists()


@pytest.mark.parametrize(
    "args, message",
    [
        (("--keep", 13), "--keep 13: expected 1 to 12"),
        (("--keep", 0), "--keep 0: expected 1 to 12"),
        (("--items", 21), "--items 21: expected 1 to 20"),
        (("--rule", "elimination"), "say --keep N or --above X"),
        (("--kind", "integer"), "is not of the kind integer"),
    ],
)
def test_score_refuses_choices_that_cannot_be_made(asked, score, tmp_path, args, message):
    write_set(tmp_path / "set.jsonl")
    status, _, err = score(*args)
    assert status == 2 and message in err and not asked


def test_score_does_not_write_into_other_folders(asked, score, tmp_path):
    write_set(tmp_path / "set.jsonl")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    status, _, err = score("--out", tmp_path / "mine")
    assert status == 2 and "is not empty and holds no scores" in err
