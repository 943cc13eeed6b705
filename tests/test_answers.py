"""Hostile text through answers and tags, and the gold answers of BBH if they are there."""

import json
import re
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from arte.core.answers import (
    KINDS,
    AnswerKind,
    STOP,
    cut_answer,
    extract_answer,
    grade,
    normalise,
    options,
    read_answer,
)
from arte.core.tags import Tagged, _pieces, closings, parse_questions, tag_question
from arte.data.bbh import bbh_source, load_bbh, load_exemplars
from arte.core.tasks import builtin_tasks, items_table
from arte.data.own_file import task_from_csv

SCRAPS = [
    "<ans>",
    "</ans>",
    "<input>",
    "<input/>",
    "</input>",
    "<target>",
    "<target/>",
    "</target>",
    "<question_1>",
    "</question_1>",
    "<question_x>",
    "<QUESTION_2 >",
    "<question_",
    "<",
    ">",
    "/",
    "\n",
    " ",
    "\nQuestion:",
    "Options:",
    "\n(A) one",
    " (B) two",
    "yes",
    "no",
    "True",
    "invalid",
    "(A)",
    "B.",
    "7",
    "-",
    ",",
    "=",
    "or",
    "seven",
    "the answer is ",
    "\0",
    "\u2028",
    "İ",
    "٣",
    "𝟕",
    "²",
]
soup = st.lists(st.one_of(st.sampled_from(SCRAPS), st.text(max_size=5)), max_size=40).map("".join)
QUOTES = "\"'`´‘’“”"  # a tag between quotes is only named
plain = (
    st.text(max_size=60)
    .map(str.strip)
    .filter(lambda s: s and not re.search(r"</?(question_|input|target|ans)", s, re.I))
)


@settings(max_examples=400, deadline=None)
@given(soup, soup, st.sampled_from(KINDS), soup)
def test_nothing_raises(text, gold, kind, question):
    g = grade(text, gold, kind, question)
    assert not (g.correct and g.parsed is None)
    assert normalise(text, kind) is None or normalise(text, kind)
    options(text)
    tagged, left = parse_questions(text)
    assert all(o.question and o.target for o in tagged) and all(
        o.text.strip() and o.reason for o in left
    )


@settings(max_examples=400, deadline=None)
@given(soup)
def test_pieces_are_the_text(text):
    "Every character stands in exactly one piece, and what is left does not hide a whole question."
    spans = [(i, j) for i, j, _ in _pieces(text)]
    assert "".join(text[i:j] for i, j in spans) == text and all(i < j for i, j in spans)
    tagged, left = parse_questions(text)
    assert len(tagged) + len(left) == sum(bool(text[i:j].strip()) for i, j in spans)
    assert all(parse_questions(o.text)[0] == [] for o in left)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(plain, plain), max_size=6), plain)
def test_questions_come_back(pairs, chatter):
    text = chatter.join(tag_question(q, t, x) for x, (q, t) in enumerate(pairs, 1))
    tagged, left = parse_questions(text)
    assert tagged == [Tagged(q, t) for q, t in pairs]
    assert [o.text for o in left] == [chatter] * (len(pairs) - 1)


@settings(max_examples=200, deadline=None)
@given(soup, plain.filter(lambda s: s[-1] not in QUOTES), plain)
def test_last_complete_answer(before, answer, after):
    assert extract_answer(f"{before}<ans>{answer}</ans>{after}<ans>") == answer


@settings(max_examples=200, deadline=None)
@given(soup)
def test_cut(text):
    cut = cut_answer(text)
    assert (
        text.startswith(cut)
        and STOP[1] not in cut
        and sum(not c.named for c in closings(cut)) <= 1
        and cut_answer(cut) == cut
    )
    assert len(cut) == len(text) or cut.endswith(STOP[0]) or text[len(cut) :].startswith(STOP[1])


@given(st.integers(-(10**12), 10**12))
def test_integers(n):
    for s in (
        f"{n}",
        f"{n:,}",
        f"{n}.",
        f"{n}.0",
        f"2 * x = {n}",
        f"{n} things",
        f"**{n}**",
        f"{n}".replace("-", "−"),
    ):
        assert normalise(s, "integer") == str(n), s


@given(st.sampled_from("ABCDEFGHIJKLMNOPQR"))
def test_letters(c):
    for s in (
        f"({c})",
        c,
        c.lower(),
        f"{c}.",
        f"{c})",
        f"({c}) words",
        f"{c}: words",
        f"Option {c}",
        f"the answer is ({c}).",
    ):
        assert normalise(s, "option") == f"({c})", s


@contextmanager
def not_hanging(seconds=60):
    "Ends with an error what would go on for minutes; seconds are enough for it on any machine."

    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return

    def stop(*_):
        raise AssertionError(f"still busy after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<input>",
        "<question_1>",
        "<question_1><input>",
        "<question_1><input>x</input><target>y",
        "</target>",
        "<ans>",
        "</ans>",
        "<ans></ans>",
        "</ans><ans>",
        "(A) ",
        "(A",
        "\n(A) x",
        "\n",
        " ",
        "Options:",
        "7,",
        "777,",
        "-",
        '"',
        "[",
        "so the answer is ",
    ],
)
def test_long_noise(unit):
    "A hundred thousand characters that open what they don't close take no hours to read."
    noise = unit * (100_000 // len(unit))
    with not_hanging():
        parse_questions(noise)
        cut_answer(noise)
        for kind in KINDS:
            grade(f"<ans>{noise}</ans>", noise, kind, "Options:\n(A) one\n(B) two")
        options(noise)


def test_many_unfinished_questions():
    "Work that grows with the square of their number would take half an hour."
    with not_hanging():
        parse_questions("<question_1><input>x</input> <target>" * 100_000)


@pytest.fixture(scope="module")
def folder():
    source = bbh_source()
    if source in (None, "hub"):
        pytest.skip("needs the BBH files: set ARTE_DATA to a folder that holds them")
    return source


def test_bbh_gold(folder):
    "Each of the 6,511 gold answers is graded right, and another item's different answer wrong."
    n = 0
    for task in builtin_tasks():
        items = load_bbh(task, folder)
        for item, other in zip(items, items[1:] + items[:1]):
            g = grade(
                f"So the answer is <ans>{item.answer}</ans>.", item.answer, item.kind, item.question
            )
            assert g.correct and g.parsed, item.item
            if other.answer != item.answer:
                assert not grade(
                    f"<ans>{other.answer}</ans>", item.answer, item.kind, item.question
                ).correct, item.item
        n += len(items)
    assert n == 6511


def test_bbh_option_words(folder):
    "The words of an option count as its letter, unless two options have the same words."
    for task, t in builtin_tasks().items():
        for item in load_bbh(task, folder) if t.kind == "option" else []:
            found = options(item.question)
            words = [normalise(o, "text") for o in found.values()]
            assert item.answer in found or normalise(item.answer, "option") is None, item.item
            for letter, o in found.items():
                parsed = grade(f"<ans>{o}</ans>", "(A)", "option", item.question).parsed
                if normalise(o, "option") is None and words.count(normalise(o, "text")) == 1:
                    assert parsed == letter, (item.item, o)


def test_bbh_questions_in_tags(folder):
    for task in builtin_tasks():
        items = load_bbh(task, folder)
        text = "\n".join(tag_question(o.question, o.answer, x) for x, o in enumerate(items))
        assert parse_questions(text) == ([Tagged(o.question, o.answer) for o in items], [])


def test_bbh_exemplars(folder):
    for task, t in builtin_tasks().items():
        for e in load_exemplars(task, folder):
            assert grade(cut_answer(e.rationale), e.answer, t.kind, e.question).correct, task
            assert (
                "Let's think" not in e.rationale
                and "\nA:" not in e.question
                and e.rationale == e.rationale.strip()
            ), task


def test_a_kind_of_your_own(tmp_path):
    "A task may hold a kind that no list has: prompts show its form, tables keep its name."
    hour = AnswerKind(
        "hour", "<ans>17:30</ans>", lambda s: s if re.match(r"\d\d:\d\d$", s) else None
    )
    (tmp_path / "trains.csv").write_text("question,answer\nWhen?,17:30\nAnd then?,18:05\n")
    task, items = task_from_csv(tmp_path / "trains.csv", "Say when the train leaves.", hour)
    assert all(t.prompt.endswith("like <ans>17:30</ans>") for t in task.techniques)
    assert list(items_table(items).kind) == ["hour", "hour"]
    assert grade("It is <ans>17:30.</ans>", items[0].answer, task.kind).correct
    assert grade("It is <ans>half past five</ans>", items[0].answer, task.kind).parsed is None
    with pytest.raises(ValueError, match="'soon' is not of the kind hour"):
        (tmp_path / "trains.csv").write_text("question,answer\nWhen?,soon\n")
        task_from_csv(tmp_path / "trains.csv", "Say when the train leaves.", hour)


CASES = Path(__file__).resolve().parents[2] / "shared/cases/answers.json"


@pytest.fixture(scope="module")
def cases():
    "Answers that other tools read wrongly, with the right reading."
    if not CASES.exists():
        pytest.skip(f"{CASES} is not there")
    return json.loads(CASES.read_text(encoding="utf-8"))


def test_an_answer_with_two_readings_gets_no_credit(cases):
    for case in cases["can_be_read_in_two_ways"]:
        assert normalise(case["answer"], case["kind"]) is None, case


def test_a_clear_answer_in_any_wrapping_gets_credit(cases):
    for case in cases["one_clear_answer"]:
        text = f"So the answer is <ans>{case['answer']}</ans>"
        assert grade(text, case["gold"], case["kind"], cases["question"]).correct, case


def test_tags_in_any_case_are_read(cases):
    for case in cases["tags"]:
        assert read_answer(case["text"], case["kind"]) == case["right"], case


WRAPPINGS = [
    "**{}**",
    "[{}]",
    "({})",
    "${}$",
    r"\boxed{{{}}}",
    "“{}”",
    "The answer is: {}.",
    "\ufeff{}",
]


@pytest.mark.parametrize("inner", WRAPPINGS)
@pytest.mark.parametrize("outer", WRAPPINGS)
def test_two_layers_are_peeled(outer, inner):
    for gold, kind in [("7", "integer"), ("2.5", "number"), ("Yes", "yesno"), ("B", "option")]:
        said = outer.format(inner.format(gold))
        assert normalise(said, kind) == normalise(gold, kind), said


TWO = ["{a} or {b}", "{a}, {b}", "{a} and {b}", "{a}/{b}", "{a}, or {b}", "{a}; maybe {b}"]


@pytest.mark.parametrize("form", TWO)
def test_two_answers_are_none(form):
    for a, b, kind in [("7", "8", "integer"), ("Yes", "No", "yesno"), ("(A)", "(B)", "option")]:
        assert normalise(form.format(a=a, b=b), kind) is None
