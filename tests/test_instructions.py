"""Instruction sets in every form they come in, missing, cut short, or with other columns."""

import json
import re
import sys
import types
from dataclasses import replace
from itertools import permutations

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from arte.data import instructions
from arte.data.fetch import hub as hub_module
from arte.data.instructions import (
    INSTRUCTION_SETS,
    MissingInstructions,
    _number,
    get_instruction_set,
    instruction_source,
    load_instructions,
    uniform_sample,
)


def alpaca(i):
    return dict(instruction=f"Name fruit {i}.", input="", output=f"Fig {i}.", text="…")


def tulu(i):
    return dict(
        dataset="d",
        id=str(i),
        messages=[
            dict(role="user", content=f"Name fruit {i}."),
            dict(role="assistant", content=f"Fig {i}."),
        ],
    )


def wizard(i):
    return dict(
        idx=str(i),
        conversations=[
            {"from": "human", "value": f"Name fruit {i}."},
            {"from": "gpt", "value": f"Fig {i}."},
        ],
    )


def orca(i):
    return dict(id=f"flan.{i}", system_prompt="", question=f"Name fruit {i}.", response=f"Fig {i}.")


FORMS = {"GPT-4-LLM": alpaca, "Tulu-v2": tulu, "WizardLM": wizard, "OpenOrca": orca}
each = pytest.mark.parametrize("name", FORMS)


def hub(monkeypatch, load):
    monkeypatch.setattr(hub_module, "hub_reachable", lambda: True)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def put(folder, rows, form):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"rows.{form}"
    if form == "parquet":
        pd.DataFrame(rows).to_parquet(file)
    else:
        file.write_text(
            json.dumps(rows) if form == "json" else "".join(json.dumps(r) + "\n" for r in rows)
        )
    return file


def test_names():
    assert [o.name for o in INSTRUCTION_SETS] == list(FORMS)


@each
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_files(tmp_path, name, form):
    put(tmp_path, [FORMS[name](i) for i in range(20)], form)
    table, left_out = load_instructions(name, 5, seed=1, source=tmp_path)
    assert (
        list(table) == ["example", "arm", "task", "prompt", "completion", "question_id", "finish"]
        and len(table) == 5
        and left_out == {}
    )
    assert set(table.arm) == {name} and table.example.is_unique
    for r in table.itertuples():
        (i,) = [i for i in range(20) if f"fruit {i}." in r.prompt]
        assert r.prompt == f"Question: Name fruit {i}.\nAnswer:" and r.completion == f" Fig {i}."
    assert load_instructions(name, 20, seed=1, source=tmp_path)[0].head(5).equals(table)
    assert not load_instructions(name, 5, seed=2, source=tmp_path)[0].equals(table)


@each
def test_hub_and_folder_give_the_same(no_hub, tmp_path, name):
    rows, asked = [FORMS[name](i) for i in range(30)], []

    def load(*a, **k):
        asked.append((a, k))
        return iter(rows[::-1])

    hub(no_hub, load)
    put(tmp_path / "a", rows[:12], "jsonl")
    put(tmp_path / "b", rows[10:], "parquet")  # two rows are in both
    assert load_instructions(name, 8, source="hub")[0].equals(
        load_instructions(name, 8, source=tmp_path)[0]
    )
    assert asked == [((get_instruction_set(name).hub,), dict(split="train", streaming=True))]


@each
def test_the_real_library(tmp_path, monkeypatch, name):
    "`datasets` streams files like the hub's (JSON for WizardLM, else Parquet) as we expect them."
    rows = [FORMS[name](i) for i in range(30)]
    put(tmp_path / "hub", rows, "json" if name == "WizardLM" else "parquet")
    put(tmp_path / "here", rows, "jsonl")
    there = replace(get_instruction_set(name), hub=str(tmp_path / "hub"))
    monkeypatch.setattr(hub_module, "hub_reachable", lambda: True)
    monkeypatch.setattr(instructions, "INSTRUCTION_SETS", (there,))
    assert load_instructions(name, 8, source="hub")[0].equals(
        load_instructions(name, 8, source=tmp_path / "here")[0]
    )


@each
def test_too_few(tmp_path, name):
    put(tmp_path, [FORMS[name](i) for i in (0, 1, 1)], "jsonl")
    with pytest.raises(
        ValueError, match=f"{name}: 3 examples asked for, but there are only 2 distinct"
    ):
        load_instructions(name, 3, source=tmp_path)


NEEDED = [
    ("GPT-4-LLM", "instruction"),
    ("GPT-4-LLM", "input"),
    ("GPT-4-LLM", "output"),
    ("Tulu-v2", "messages"),
    ("WizardLM", "conversations"),
    ("OpenOrca", "system_prompt"),
    ("OpenOrca", "question"),
    ("OpenOrca", "response"),
]


@pytest.mark.parametrize("name, column", NEEDED)
def test_a_column_is_gone(tmp_path, name, column):
    row = FORMS[name](1)
    row["renamed"] = row.pop(column)
    put(tmp_path, [FORMS[name](0), row], "jsonl")
    with pytest.raises(
        ValueError,
        match=rf"{name} from .*rows.jsonl, row 2: expected the column '{column}', .*got only "
        rf".*'renamed'",
    ):
        load_instructions(name, 1, source=tmp_path)


@pytest.mark.parametrize(
    "name, row, problem",
    [
        (
            "Tulu-v2",
            dict(messages="a text"),
            "expected a list of turns in the column 'messages', got 'a text'",
        ),
        (
            "Tulu-v2",
            dict(messages=[dict(role="user", text="A fruit?")]),
            "row 1, messages: expected the column 'content', a text, got only 'role', 'text'",
        ),
        (
            "Tulu-v2",
            dict(messages=["A fruit?"]),
            "row 1, messages: expected a row with the column 'role', got 'A fruit?'",
        ),
        (
            "Tulu-v2",
            dict(messages=[dict(role="human", content="A fruit?")]),
            "expected the role to be system, user, assistant, got 'human'",
        ),
        (
            "WizardLM",
            dict(conversations=[{"from": "user", "value": "A fruit?"}]),
            "expected the from to be system, human, gpt, got 'user'",
        ),
        (
            "OpenOrca",
            dict(system_prompt="", question=7, response="Fig."),
            "expected a text in the column 'question', got 7",
        ),
        (
            "GPT-4-LLM",
            ["A fruit?", "Fig."],
            "expected a row with the column 'instruction', got ['A fruit",
        ),
    ],
)
def test_a_row_is_something_else(tmp_path, name, row, problem):
    put(tmp_path, [row], "jsonl")
    with pytest.raises(ValueError, match=re.escape(problem)):
        load_instructions(name, 1, source=tmp_path)


def test_unusable_rows_are_counted(tmp_path):
    unanswered = dict(messages=[dict(role="user", content="A fruit?")])
    put(
        tmp_path,
        [
            tulu(0),
            unanswered,
            dict(messages=[]),
            dict(
                messages=[
                    dict(role="user", content="A fruit?"),
                    dict(role="assistant", content=" \n"),
                ]
            ),
        ],
        "jsonl",
    )
    table, left_out = load_instructions("Tulu-v2", 1, source=tmp_path)
    assert table.completion.tolist() == [" Fig 0."] and left_out == {
        "no first question with an answer": 2,
        "an empty answer": 1,
    }
    with pytest.raises(ValueError, match="only 1 distinct ones .3 rows could not be used"):
        load_instructions("Tulu-v2", 2, source=tmp_path)


def test_system_and_input(tmp_path):
    put(
        tmp_path / "o",
        [orca(1) | dict(system_prompt="Be brief.\n"), orca(2) | dict(system_prompt=None)],
        "jsonl",
    )
    assert sorted(load_instructions("OpenOrca", 2, source=tmp_path / "o")[0].prompt) == [
        "Be brief.\nQuestion: Name fruit 1.\nAnswer:",
        "Question: Name fruit 2.\nAnswer:",
    ]
    put(tmp_path / "g", [alpaca(1) | dict(input="a red one")], "json")
    assert (
        load_instructions("GPT-4-LLM", 1, source=tmp_path / "g")[0].prompt[0]
        == "Question: Name fruit 1.\na red one\nAnswer:"
    )


@pytest.mark.parametrize(
    "form, problem",
    [
        ("jsonl", "line 20 is cut short or no JSON"),
        ("json", "is cut short or no JSON"),
        ("parquet", "is cut short or no Parquet file"),
    ],
)
def test_a_file_that_is_cut_short(tmp_path, form, problem):
    file = put(tmp_path, [orca(i) for i in range(20)], form)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"rows.{form}.*{problem}"):
        load_instructions("OpenOrca", 3, source=tmp_path)


def test_json_that_is_no_list(tmp_path):
    (tmp_path / "rows.json").write_text('{"data": []}')
    with pytest.raises(ValueError, match="rows.json: expected a list of rows, got a dict"):
        load_instructions("OpenOrca", 3, source=tmp_path)


def help_for(name):
    b = get_instruction_set(name)
    parts = [
        f"Its data is {b.hub} on the Hugging Face hub",
        f"hf download {b.hub} --repo-type dataset",
        f"columns {b.columns}",
        f"into a folder {name} and set ARTE_BASELINES",
    ]
    return ".*".join(map(re.escape, parts))


@each
def test_missing(no_hub, tmp_path, name):
    with pytest.raises(
        MissingInstructions,
        match="it could not be read from the hub .http://127.0.0.1:9 cannot be.*" + help_for(name),
    ):
        instruction_source(name)
    with pytest.raises(MissingInstructions):
        load_instructions(name, 1)
    no_hub.setenv("ARTE_BASELINES", str(tmp_path))
    with pytest.raises(
        MissingInstructions,
        match="holds no .jsonl, .json or .parquet file in its folder.*" + help_for(name),
    ):
        instruction_source(name)
    (tmp_path / name / ".cache").mkdir(parents=True)
    (tmp_path / name / ".cache/left.json").write_text("[]")  # what a download leaves behind
    with pytest.raises(MissingInstructions):
        instruction_source(name)
    put(tmp_path / name / "data", [FORMS[name](0)], "jsonl")
    assert instruction_source(name) == tmp_path / name and len(load_instructions(name, 1)[0]) == 1
    with pytest.raises(MissingInstructions):
        load_instructions(name, 1, source=tmp_path / "elsewhere")


def test_the_hub_fails_halfway(no_hub):
    def load(*a, **k):
        yield orca(0)
        raise OSError("connection reset")

    hub(no_hub, load)
    with pytest.raises(
        MissingInstructions,
        match="could not be read from the hub .OSError: connection reset.*ARTE_BASELINES",
    ):
        load_instructions("OpenOrca", 1, source="hub")


text = st.text(max_size=4)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(text, text), min_size=1, max_size=30), st.integers(1, 30), st.integers(0, 3)
)
def test_sample_is_the_smallest(pairs, n, seed):
    "One pass gives what sorting all distinct pairs gives, in whatever order they come."
    expected = sorted(set(pairs), key=lambda p: _number(seed, *p))[:n]
    assert (
        uniform_sample(pairs, n, seed)
        == uniform_sample(pairs[::-1], n, seed)
        == uniform_sample(pairs * 2, n, seed)
        == expected
    )


def test_every_subset_is_as_likely():
    "The six ordered pairs of three rows: chi-squared over 6,000 seeds, 5 degrees of freedom."
    rows = [("a", "1"), ("b", "2"), ("c", "3")]
    drawn = [tuple(uniform_sample(rows, 2, seed)) for seed in range(6000)]
    chi2 = sum((drawn.count(p) - 1000) ** 2 / 1000 for p in permutations(rows, 2))
    assert chi2 < 20.5  # p = 0.001; the seeds are fixed
