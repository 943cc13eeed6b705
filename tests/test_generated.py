"""Generated tasks at size: three computations agree, none is BBH's, any text is read or refused."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import example, given, settings, strategies as st

from arte.data.generated import boolean
from arte.core.answers import grade
from arte.core.tags import parse_questions
from arte.data.generated.sports import ACTIONS, ATHLETES
from arte.data.generated.tasks import (
    GENERATED_TASKS,
    make_items,
    make_exemplars,
    solve,
    write_rationale,
)
from arte.data.generated.form import TECHNIQUES
from arte.data.generated.counting import THINGS
from arte.models.nano.school import school_examples, school_items
from arte.data.bbh import bbh_source, load_bbh, load_exemplars
from arte.core.tasks import get_task

tasks = pytest.mark.parametrize("task", GENERATED_TASKS)


@tasks
def test_generator_writer_and_solver_agree_on_1000(task):
    for item in make_items(task, 1000, seed=11):
        assert solve(task, item.question) == item.answer, item
        for t in TECHNIQUES:
            g = grade(write_rationale(item, task, t), item.answer, item.kind, item.question)
            assert g.correct, (item, t, g)


FORMS = {
    "boolean_expressions": r"(?:(?:True|False|not|and|or|[()]) )+is",
    "object_counting": r"I have (?:(?:an?|two|three|four|five) [a-z ]+, )+and "
    r"(?:an?|two|three|four|five) [a-z ]+\. How many [a-z ]+ do I have\?",
    "date_understanding": r"[^\n]+\. What is the date [a-z0-9 ]+ in "
    r"MM/DD/YYYY\?\nOptions:(?:\n\([A-F]\) \d\d/\d\d/\d{4}){5,6}",
    "sports_understanding": r'Is the following sentence plausible\? "[^"]+\."',
    "web_of_lies": r"Question: \w+ (?:lies|tells the truth)\. "
    r"(?:\w+ says \w+ (?:lies|tells the truth)\. ){4}Does \w+ tell the truth\?",
}


@tasks
def test_items_have_the_form_of_bbh(task):
    items = make_items(task, 500, seed=3)
    assert all(re.fullmatch(FORMS[task], i.question) for i in items)
    assert {i.kind for i in items} == {get_task(task).kind}
    assert len({i.question for i in items}) == len({i.item for i in items}) == 500


@tasks
def test_the_form_is_that_of_bbh_itself(task):
    if bbh_source() is None:
        pytest.skip("BBH is not reachable (set ARTE_DATA)")
    form = (
        FORMS[task].replace("{5,6}", "{3,6}").replace("[^\\n]+\\.", "[^\\n]+")
    )  # a few BBH hints end without a period
    assert sum(bool(re.fullmatch(form, i.question)) for i in load_bbh(task)) >= 240


@tasks
def test_no_item_of_bbh_comes_up(task):
    source = bbh_source()
    if source is None:
        pytest.skip("BBH is not reachable (set ARTE_DATA)")
    known = [i.question for i in load_bbh(task, source)]
    if source != "hub":
        known += [e.question for e in load_exemplars(task, source)]

    def plain(q):
        return " ".join(q.split())

    known = {plain(q) for q in known}
    ours = [i.question for i in make_items(task, 2000, seed=5)]
    ours += [
        t.question
        for e in school_examples(task, 8, 20, seed=5)
        for t in parse_questions(e["prompt"] + e["completion"])[0]
    ]
    assert not known & {plain(q) for q in ours}


def test_collections_keep_away_from_bbh():
    if bbh_source() is None:
        pytest.skip("BBH is not reachable (set ARTE_DATA)")
    sentences = " ".join(i.question for i in load_bbh("sports_understanding"))
    assert [a for names in ATHLETES.values() for a in names if a in sentences] == []
    lists = " ".join(i.question for i in load_bbh("object_counting"))
    assert [
        w
        for _, ours in THINGS.values()
        for pair in ours
        for w in pair
        if re.search(rf"\b{w}\b", lists)
    ] == []
    assert {len(i.question.split()) for i in load_bbh("boolean_expressions")} == {
        9
    }  # eight tokens and "is"


def test_names_are_told_apart():
    for table in (ATHLETES, ACTIONS):
        names = [(n, sport) for sport, ns in table.items() for n in ns]
        assert [(a, b) for a, s in names for b, t in names if s != t and a in b] == []
    words = Counter(
        w for halves in THINGS.values() for half in halves for pair in half for w in set(pair)
    )
    assert max(words.values()) == 1


@tasks
def test_answers_are_balanced(task):
    share = Counter(i.answer for i in make_items(task, 1000, seed=2)).most_common(1)[0][1] / 1000
    assert share < {"date_understanding": 0.25, "object_counting": 0.2}.get(task, 0.6)


def test_dates_have_different_options_of_which_one_is_right():
    for i in make_items("date_understanding", 300, seed=9):
        options = re.findall(r"\d\d/\d\d/\d{4}$", i.question, re.M)
        assert len(set(options)) == len(options) >= 5


@tasks
def test_the_same_in_another_process(task):
    code = (
        "from arte.data.generated.tasks import *; from arte.models.nano.school import *\n"
        "from hashlib import sha1\n"
        f"print(sha1(repr((make_items({task!r}, 60, 4), school_examples({task!r}, 8, 4, 4), "
        f"make_exemplars({task!r}, 4))).encode()).hexdigest())"
    )
    out = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": h},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for h in ("1", "2")
    }
    assert len(out) == 1 and len(out.pop()) == 41


def test_what_cannot_be_made_is_refused(monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(
            boolean, "LENGTHS", (3,)
        )  # two each of 'not not …' and '( … )', eight of 'and' and 'or'
        with pytest.raises(ValueError, match="asked for 19 .* after 12 nothing new"):
            make_items("boolean_expressions", 19)
    with pytest.raises(ValueError, match="no generator for task 'snarks'"):
        make_items("snarks", 1)
    with pytest.raises(ValueError, match="no technique"):
        write_rationale("True is", "boolean_expressions", "guess")
    assert make_items("object_counting", 0) == []


@tasks
def test_school_examples(task):
    examples = school_examples(task, 80, 10, seed=1)
    assert Counter(e["kind"] for e in examples) == {"technique": 60, "naive": 20, "question": 10}
    asked = [e for e in examples if e["kind"] == "question"]
    assert Counter(e["completion"].count("<question_") for e in asked) == {5: 5, 1: 5}
    seen = [
        t.question
        for e in asked
        for t in parse_questions(e["prompt"].partition("unique.")[2] + e["completion"])[0]
    ]
    seen += [
        e["prompt"].partition("Question: ")[2].rpartition("\nAnswer:")[0]
        for e in examples
        if e["kind"] != "question"
    ]
    assert len(seen) == len(set(seen)) == 80 + 5 * 8 + 5 * 4
    assert set(seen) == {i.question for i in school_items(task, 80, 10, seed=1)}
    for e in asked:
        assert e["prompt"].endswith("\n") and e["completion"].startswith("<question_4><input>")
        found, left = parse_questions(e["completion"])
        assert not left and [solve(task, t.question) for t in found] == [t.target for t in found]
    for e in examples:
        if e["kind"] == "question":
            continue
        assert (
            not e["prompt"][-1].isspace()
            and e["completion"].startswith(" ")
            and e["completion"].endswith("</ans>.")
        )


@tasks
def test_each_technique_prompt_has_its_own_manner(task):
    prompts = {t.name: t.prompt for t in get_task(task).techniques}
    assert set(prompts) == set(TECHNIQUES)
    for e in school_examples(task, 80, 0, seed=3):
        if e["kind"] == "naive":
            continue
        technique = next(n for n, p in prompts.items() if e["prompt"].startswith(p))
        question = e["prompt"].partition("Question: ")[2].rpartition("\nAnswer:")[0]
        assert e["completion"] == " " + write_rationale(question, task, technique)


@tasks
def test_manners_differ_and_stay_short(task):
    items = make_items(task, 200, seed=6)
    text = {t: [write_rationale(i, task, t) for i in items] for t in TECHNIQUES}
    assert all(len({text[t][k] for t in TECHNIQUES}) == 4 for k in range(200))
    mean = {t: sum(len(r.split()) for r in rs) / 200 for t, rs in text.items()}
    assert (
        mean["plain"] < 12
        # the steps of a web of lies repeat every statement
        and mean["expert"] < (60 if task == "web_of_lies" else 45)
        and mean["eliminate"] < 60
        and 30 < mean["recall"] < 90
    )
    assert all(
        r == r.strip() and "  " not in r and "\n" not in r and r.endswith("</ans>.")
        for rs in text.values()
        for r in rs
    )


@tasks
def test_exemplars(task):
    exemplars = make_exemplars(task, 2)
    assert len(exemplars) == 3 and len({e.answer for e in exemplars}) > 1
    assert [solve(task, e.question) for e in exemplars] == [e.answer for e in exemplars]


def readable(task, question):
    "The answer by solver and writers, None for an unreadable text; only ValueError is caught."

    def attempt(f):
        try:
            return f()
        except ValueError as e:
            assert str(e)
            return None

    return attempt(lambda: solve(task, question)), {
        attempt(lambda t=t: write_rationale(question, task, t)) for t in TECHNIQUES
    }


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(GENERATED_TASKS),
    st.one_of(st.text(max_size=200), st.text(alphabet="TrueFalse notandor()is", max_size=60)),
)
@example("boolean_expressions", "(" * 5000 + "True")
@example("boolean_expressions", "not " * 90 + "True is")
@example("boolean_expressions", "True ( False ) is")
@example(
    "date_understanding",
    "Today is Foo 3, 1999. What is the date today in MM/DD/YYYY?\nOptions:\n(A) 01/01/1999",
)
@example(
    "date_understanding",
    "The exam is on Mar 2, 1988, which is 99999999999 days from now. What is the date today in "
    "MM/DD/YYYY?\nOptions:\n(A) 02/28/1988",
)
@example(
    "date_understanding",
    "Nora was born on 2/29/2000 and turns 9 today. What is the date today in "
    "MM/DD/YYYY?\nOptions:\n(A) 02/28/2009",
)
@example("sports_understanding", 'Is the following sentence plausible? "."')
@example("object_counting", "I have . How many objects do I have?")
def test_any_text_is_read_or_refused(task, question):
    readable(task, question)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(GENERATED_TASKS),
    st.integers(0, 49),
    st.integers(0, 200),
    st.integers(0, 12),
    st.text(alphabet="abT(1/,. \n", max_size=3),
)
def test_damaged_questions_are_read_or_refused(task, k, at, cut, put):
    q = make_items(task, 50, seed=8)[k].question
    readable(task, q[:at] + put + q[at + cut :])


def test_nothing_is_executed():
    for bad in (
        "__import__('os').system('true') is",
        "True if False else True is",
        "not True == False is",
        "9**9**9 is",
    ):
        with pytest.raises(ValueError):
            solve("boolean_expressions", bad)
