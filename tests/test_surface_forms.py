"""Each gold answer of BBH in ten ways to write it is right, and another item's answer is wrong."""

from pathlib import Path

import pytest

from arte.core.answers import grade, normalise, options
from arte.data.bbh import bbh_source, load_bbh
from arte.core.tasks import builtin_tasks

TASKS = tuple(builtin_tasks())
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen twenty""".split()


@pytest.fixture(scope="module")
def bbh():
    if not isinstance(bbh_source(), Path):
        pytest.skip("no folder with BBH's files (ARTE_DATA)")
    return load_bbh


def dressed(gold):
    "What may stand around any answer."
    return [
        gold,
        f" {gold} ",
        f"\n{gold}\n",
        f"{gold}.",
        f'"{gold}"',
        f"'{gold}'",
        f"`{gold}`",
        f"**{gold}**",
        f"The answer is {gold}.",
        f"The answer is: {gold}",
    ]


def option_forms(gold, question):
    letter, listed = gold[1], options(question)
    words = listed[gold]
    twins = [w for w in listed.values() if normalise(w, "text") == normalise(words, "text")]
    forms = [
        letter,
        gold.lower(),
        letter.lower(),
        f"{letter}.",
        f"{letter})",
        f"Option {letter}",
        f"{gold} {words}",
    ]
    if len(twins) == 1:  # options with the same words differ by their letters only
        forms += [*dressed(words), words.upper(), words.lower()]
    return dressed(gold) + forms


def word_forms(gold, question):
    return dressed(gold) + [
        gold.lower(),
        gold.upper(),
        gold.capitalize(),
        f"{gold}!",
        f"{gold}, it is",
        f"{gold.upper()}.",
    ]


def integer_forms(gold, question):
    n = int(gold)
    signed = [f"−{-n}", f"- {-n}"] if n < 0 else [f"+{gold}", f"0{gold}"]
    return (
        dressed(gold)
        + signed
        + [f"{gold}.0", f"= {gold}", f"2 + 2 = {gold}", f"{n:,}", f"{gold} things"]
        + ([NUMBERS[n], NUMBERS[n].capitalize()] if 0 <= n <= 20 else [])
    )


def bracket_forms(gold, question):
    parts = gold.split()
    return dressed(gold) + [
        "".join(parts),
        "  ".join(parts),
        "\n".join(parts),
        ", ".join(parts),
        "".join(parts) + ".",
    ]


def list_forms(gold, question):
    parts = gold.split()
    return dressed(gold) + [
        gold.upper(),
        gold.title(),
        "  ".join(parts),
        ", ".join(parts),
        ",".join(parts),
        "; ".join(parts),
        "\n".join(parts),
    ]


def text_forms(gold, question):
    return dressed(gold) + [gold.lower(), gold.upper(), gold.title(), gold.replace(" ", "  ")]


FORMS = dict(
    option=option_forms,
    yesno=word_forms,
    truefalse=word_forms,
    valid=word_forms,
    integer=integer_forms,
    brackets=bracket_forms,
    words=list_forms,
)


def forms(item):
    "The ways to write an item's gold answer; three of BBH's options are no letters."
    kind = item.kind if normalise(item.answer, item.kind) is not None else "text"
    return (text_forms if kind == "text" else FORMS[kind])(item.answer, item.question)


def another(item, items):
    "The first different answer among the items that follow."
    i = items.index(item)
    return next(
        o
        for o in items[i + 1 :] + items[:i]
        if o.answer != item.answer and normalise(o.answer, item.kind) is not None
    )


def graded(answer, item):
    text = f"It follows. So the answer is <ans>{answer}</ans>."
    return grade(text, item.answer, item.kind, item.question)


@pytest.mark.parametrize("task", TASKS)
def test_right_in_every_form(bbh, task):
    for item in bbh(task):
        ways = list(dict.fromkeys(forms(item)))
        assert len(ways) >= 10
        wrong = [w for w in ways if not graded(w, item).correct]
        assert wrong == [], item.item


@pytest.mark.parametrize("task", TASKS)
def test_another_answer_is_wrong(bbh, task):
    items = bbh(task)
    for item in items:
        other = another(item, items)
        ways = list(FORMS[item.kind](other.answer, other.question))
        if item.kind == "option":
            # its letter in every form, and the words of this question's other options
            letter = other.answer[1]
            letters = [letter, other.answer.lower(), f"{letter})", f"Option {letter}"]
            others = options(item.question).items()
            words = [text for o, text in others if o != item.answer]
            ways = dressed(other.answer) + letters + words
        right = [
            w
            for w in dict.fromkeys(ways)
            if grade(
                f"So the answer is <ans>{w}</ans>.", item.answer, item.kind, item.question
            ).correct
        ]
        assert right == [], item.item


@pytest.mark.parametrize("task", TASKS)
def test_without_tag_or_answer_is_wrong(bbh, task):
    for item in bbh(task):
        for text in (
            item.answer,
            f"So the answer is {item.answer}.",
            f"<ans>{item.answer}",
            "<ans></ans>",
            f"<ans>{item.answer}</ans> or <ans>none of these</ans>",
        ):
            g = grade(text, item.answer, item.kind, item.question)
            assert not g.correct, item.item


def test_all_items(bbh):
    assert sum(len(bbh(t)) for t in TASKS) == 6511
