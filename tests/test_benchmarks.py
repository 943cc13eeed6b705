"""Benchmarks that are hard to get or have changed; the gold answers of real files, where here."""

import json
import sys
import types
from pathlib import Path

import datasets
import pandas as pd
import pytest

from arte.data.fetch import hub as hub_module
from arte.core.answers import grade, normalise, options
from arte.data.benchmarks import (
    BENCHMARKS,
    benchmark_exemplars,
    benchmark_source,
    get_benchmark,
    load_benchmark,
)
from arte.core.tasks import item_id
from arte.data.places import OutOfReach

CHOICES = dict(label=["A", "B", "C"], text=["carrot", "pear", "leek"])
# A row as the hub has it, and the gold answer; where it is a letter, WORDS are beside it.
ROWS = {
    "piqa": (
        dict(goal="Loosen a screw.", sol1="Turn it right.", sol2="Turn it left.", label=1),
        "(B)",
    ),
    "csqa": (
        dict(id="1", question="A fruit?", question_concept="fruit", choices=CHOICES, answerKey="B"),
        "(B)",
    ),
    "arc_easy": (dict(id="1", question="A fruit?", choices=CHOICES, answerKey="B"), "(B)"),
    "arc_challenge": (
        dict(
            id="1",
            question="A fruit?",
            choices=dict(label=["1", "2", "3", "4"], text=["leek", "carrot", "pear", "kale"]),
            answerKey="3",
        ),
        "(C)",
    ),
    "gsm8k": (
        dict(question="What is 2 * 620?", answer="2 * 620 = <<2*620=1240>>1240\n#### 1,240"),
        "1240",
    ),
}

WORDS = dict(piqa="Turn it left.", csqa="pear", arc_easy="pear", arc_challenge="pear")


@pytest.fixture
def nowhere(no_hub, tmp_path):
    "No folder above the temporary one either."
    (tmp_path / "project").mkdir()
    no_hub.chdir(tmp_path / "project")
    return no_hub


def hub(monkeypatch, rows=None, error=None):
    "A hub that gives these rows, or fails; returns what it was asked for."
    monkeypatch.setattr(hub_module, "hub_reachable", lambda: True)
    asked = []

    def load_dataset(*a, **k):
        asked.append((a, k))
        if error:
            raise error
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def put(folder, name, *rows):
    file = Path(folder) / get_benchmark(name).file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


@pytest.mark.parametrize("name", [b.name for b in BENCHMARKS])
def test_hub_rows(nowhere, name):
    row, gold = ROWS[name]
    asked = hub(nowhere, [row, row])
    task, items = load_benchmark(name, "hub")
    assert [(o.answer, o.task, o.split, o.kind) for o in items] == [
        (gold, name, "test", task.kind)
    ]  # twice the same counts once
    assert asked == [(get_benchmark(name).hub, dict(split=get_benchmark(name).split))]
    assert grade(f"<ans>{gold}</ans>", gold, task.kind, items[0].question).correct
    assert options(items[0].question).get(gold) == WORDS.get(name)


@pytest.mark.parametrize("name", [b.name for b in BENCHMARKS])
def test_the_real_library(tmp_path, monkeypatch, name):
    "`datasets` gives the rows of a Parquet file like the hub's in the form we expect."
    row, gold = ROWS[name]
    (tmp_path / "hub").mkdir()
    pd.DataFrame([row]).to_parquet(tmp_path / "hub" / f"{get_benchmark(name).split}.parquet")
    real = datasets.load_dataset
    monkeypatch.setattr(hub_module, "hub_reachable", lambda: True)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *a, **k: real(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"), **k),
    )
    assert [o.answer for o in load_benchmark(name, "hub")[1]] == [gold]


@pytest.mark.parametrize("name", [b.name for b in BENCHMARKS])
def test_local_rows_of_the_hubs_form(nowhere, tmp_path, name):
    row, gold = ROWS[name]
    put(tmp_path, name, row)
    assert [o.answer for o in load_benchmark(name, tmp_path)[1]] == [gold]


@pytest.mark.parametrize("name", ["csqa", "arc_easy", "arc_challenge"])
def test_original_form(tmp_path, name):
    hubs, gold = ROWS[name]
    nested = dict(
        stem=hubs["question"],
        choices=[
            dict(label=l, text=t) for l, t in zip(hubs["choices"]["label"], hubs["choices"]["text"])
        ],
    )
    put(tmp_path, name, dict(id="1", question=nested, answerKey=hubs["answerKey"]))
    (item,) = load_benchmark(name, tmp_path)[1]
    put(tmp_path, name, hubs)
    assert load_benchmark(name, tmp_path)[1] == [item] and item.answer == gold


@pytest.mark.parametrize(
    "name, column",
    [
        (name, c)
        for name, (row, _) in ROWS.items()
        for c in row
        if c not in ("id", "question_concept")
    ],
)
def test_a_column_is_gone(nowhere, name, column):
    row = dict(ROWS[name][0])
    row["renamed"] = row.pop(column)
    hub(nowhere, [ROWS[name][0], row])
    with pytest.raises(
        ValueError,
        match=rf"{name} from hub, row 2: expected the column '{column}', .*got only "
        rf".*'renamed'.*the data set has changed",
    ):
        load_benchmark(name, "hub")


@pytest.mark.parametrize(
    "name, column, value",
    [
        ("piqa", "label", 2),
        ("piqa", "label", "A"),
        ("piqa", "sol1", None),
        ("csqa", "choices", ["carrot", "pear"]),
        ("arc_easy", "choices", dict(label=["A"], text="carrot")),
        ("gsm8k", "answer", 1240),
    ],
)
def test_a_column_holds_something_else(nowhere, name, column, value):
    hub(nowhere, [ROWS[name][0] | {column: value}])
    with pytest.raises(
        ValueError,
        match=rf"{name} from hub, row 1.*expected .*in the column '.*got .*the data set has "
        rf"changed",
    ):
        load_benchmark(name, "hub")


def test_labels_that_no_option_has(nowhere):
    hub(nowhere, [ROWS["arc_easy"][0] | dict(answerKey="D")])
    with pytest.raises(
        ValueError,
        match="arc_easy from hub, row 1: the answerKey 'D' is none of the options' labels A, B, C",
    ):
        load_benchmark("arc_easy", "hub")


@pytest.mark.parametrize("answer", ["2 * 620 = 1240", "2 * 620 = 1240\n####", "#### 1240 plums"])
def test_gsm8k_without_its_number(nowhere, answer):
    hub(nowhere, [ROWS["gsm8k"][0] | dict(answer=answer)])
    with pytest.raises(
        ValueError,
        match="gsm8k from hub, row 1: expected an answer that ends '#### ' and a number, got",
    ):
        load_benchmark("gsm8k", "hub")


def test_piqas_labels(tmp_path):
    row = {k: v for k, v in ROWS["piqa"][0].items() if k != "label"}
    file = put(tmp_path, "piqa", row, row | dict(goal="Tighten it."))
    with pytest.raises(FileNotFoundError, match="valid-labels.lst does not exist"):
        load_benchmark("piqa", tmp_path)
    labels = file.with_name("valid-labels.lst")
    for text, problem in [
        ("1\n", "2 questions and valid-labels.lst 1 labels"),
        ("1\n0\n1\n", "2 questions and valid-labels.lst 3 labels"),
        ("1\n-1\n", "row 2: expected 0 or 1 in the column 'label', got '-1'"),
    ]:
        labels.write_text(text)
        with pytest.raises(ValueError, match=problem):
            load_benchmark("piqa", tmp_path)
    labels.write_text("1\n0\n")
    assert [o.answer for o in load_benchmark("piqa", tmp_path)[1]] == ["(B)", "(A)"]


def test_a_file_that_is_cut_short(tmp_path):
    file = put(tmp_path, "csqa", ROWS["csqa"][0], ROWS["csqa"][0])
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match="dev_rand_split.jsonl, line 2 is cut short or no JSON"):
        load_benchmark("csqa", tmp_path)
    file.write_text("")
    with pytest.raises(ValueError, match="csqa from .*expected 1221 rows, got none"):
        load_benchmark("csqa", tmp_path)
    file.write_text('"a text"\n')
    with pytest.raises(ValueError, match="row 1: expected a row with the column"):
        load_benchmark("csqa", tmp_path)


def test_out_of_reach(nowhere):
    assert benchmark_source("gsm8k") is None
    with pytest.raises(OutOfReach) as e:
        load_benchmark("gsm8k")
    _, first, second, advice = str(e.value).splitlines()
    assert first.startswith("  github.com/openai/grade-school-math: http://127.0.0.1:9/openai/")
    assert second == "  huggingface.co/datasets/openai/gsm8k: http://127.0.0.1:9 cannot be reached"
    assert "To work offline: put gsm8k/test.jsonl into a folder and set ARTE_BENCHMARKS" in advice


@pytest.mark.parametrize("place", ["hf/hub/datasets--tau--commonsense_qa", "hf/datasets/tau___x"])
def test_in_the_hubs_cache(nowhere, tmp_path, place):
    nowhere.setenv("HF_HUB_OFFLINE", "1")
    asked = hub(nowhere, [ROWS["csqa"][0]])
    (tmp_path / place).mkdir(parents=True)
    problem = "expected 1,221 rows, got 1" if "common" in place else "was not downloaded before"
    with pytest.raises(OutOfReach, match=problem):
        load_benchmark("csqa")
    assert len(asked) == ("common" in place)


def test_fetched_once(nowhere, tmp_path):
    hub(nowhere, [ROWS["csqa"][0] | dict(question=f"Fruit {i}?") for i in range(1221)])
    assert len(load_benchmark("csqa")[1]) == 1221
    hub(nowhere, error=OSError("asked twice"))
    assert len(load_benchmark("csqa", n=5)[1]) == 5
    assert benchmark_source("csqa") == tmp_path / "cache/csqa"


def test_hub_fails(nowhere):
    hub(nowhere, error=OSError("name or service not known"))
    with pytest.raises(ConnectionError, match="openai/gsm8k/main: OSError: name or service not"):
        load_benchmark("gsm8k", "hub")


def test_folders(nowhere, tmp_path):
    nowhere.setenv("ARTE_BENCHMARKS", str(tmp_path / "mine"))
    with pytest.raises(FileNotFoundError, match="holds no gsm8k/test.jsonl"):
        benchmark_source("gsm8k")
    put(tmp_path / "mine", "gsm8k", ROWS["gsm8k"][0])
    assert benchmark_source("gsm8k") == tmp_path / "mine"
    nowhere.delenv("ARTE_BENCHMARKS")
    put(tmp_path / "all", "csqa", ROWS["csqa"][0])
    nowhere.setenv("ARTE_DATA", str(tmp_path / "all"))
    assert benchmark_source("csqa") == tmp_path / "all" and benchmark_source("gsm8k") is None


def test_draw(tmp_path):
    put(tmp_path, "gsm8k", *(dict(question=f"{i} + 1?", answer=f"#### {i + 1}") for i in range(50)))
    everything = load_benchmark("gsm8k", tmp_path)[1]
    assert [o.answer for o in everything] == [str(i + 1) for i in range(50)]
    drawn = load_benchmark("gsm8k", tmp_path, n=10, seed=1)[1]
    assert len({o.item for o in drawn}) == 10 and set(drawn) <= set(everything)
    assert (
        drawn
        == load_benchmark("gsm8k", tmp_path, n=10, seed=1)[1]
        != load_benchmark("gsm8k", tmp_path, n=10, seed=2)[1]
    )
    with pytest.raises(ValueError, match="51 items asked for"):
        load_benchmark("gsm8k", tmp_path, n=51)


def forms(answer, kind, listed):
    "Ways to write one answer."
    if kind == "option":
        l, words = answer[1], listed[answer]
        return [
            answer,
            l,
            l.lower(),
            f"{l}.",
            f"{answer.lower()}",
            f"Option {answer}",
            f"**{answer}**",
            f"The answer is {answer}.",
            words,
            words.upper(),
        ]
    whole = f"{int(answer):,}"
    return [
        answer,
        whole,
        f"${whole}",
        f"{whole}.00",
        f"{answer}.",
        f"{whole} dollars",
        f"**{answer}**",
        f"The answer is ${whole}.",
        f"{whole}%",
        f"0 + {answer} = {whole}",
    ]


@pytest.mark.parametrize("name", [b.name for b in BENCHMARKS])
def test_the_real_files(name):
    "Gold answers are right in ten forms, others are wrong; no item is a worked example."
    source = benchmark_source(name)
    if not isinstance(source, Path):
        pytest.skip(f"{name} is not at hand")
    task, items = load_benchmark(name, source)
    assert len(items) == get_benchmark(name).n
    for o in items:
        listed = options(o.question)
        assert normalise(o.answer, task.kind) == o.answer and (not listed or o.answer in listed)
        for form in forms(o.answer, task.kind, listed):
            assert grade(f"So it is <ans>{form}</ans>.", o.answer, task.kind, o.question).correct, (
                o.item,
                form,
            )
        other = next(a for a in listed if a != o.answer) if listed else str(int(o.answer) + 1)
        for form in forms(other, task.kind, listed):
            assert not grade(
                f"So it is <ans>{form}</ans>.", o.answer, task.kind, o.question
            ).correct, (o.item, form)
    assert not {item_id(name, e.question) for e in benchmark_exemplars(name)} & {
        o.item for o in items
    }
