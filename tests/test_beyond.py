"What the notebooks of nbs/beyond can't show: faults, odd text, and fuzzed tables."

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import spearmanr

from arte.beyond.cot import answer_confidence, cot_rationales
from arte.beyond.health import (
    cover_of_tests,
    drop_contradictions,
    drop_overlaps,
    drop_unanswered,
    drop_unfinished,
    health,
    outliers,
    overlaps,
    with_questions,
)
from arte.beyond.likelihood import (
    answer_likelihoods,
    gold_text,
    likelihood_scores,
    rank_agreement,
    signal_cost,
)
from arte.core.answers import grade
from arte.engines.journal import Journal
from arte.engines.journaled import Journaled
from arte.engines.protocol import Completion, FunctionEngine
from arte.models.chat import ChatTemplate
from arte.data.generated.tasks import make_items, write_rationale
from arte.core.tasks import builtin_tasks, items_table
from arte.data.repeats import words_and_marks
from arte.pairs import rationale_pairs
from arte.prefer import preference_scores

TASKS, NAME = builtin_tasks(), "boolean_expressions"
QUESTIONS = pd.DataFrame(
    [(i.item, i.question, i.answer) for i in make_items(NAME, 4, seed=7)],
    columns=["question_id", "question", "target"],
)
ITEMS = items_table(make_items(NAME, 6, seed=8))


def draft(q, technique):
    return dict(
        draft=f"{q.question_id}-{technique}",
        question_id=q.question_id,
        task=NAME,
        technique=technique,
        question=q.question,
        target=q.target,
        rationale=write_rationale(q.question, NAME, technique),
        answer=q.target,
    )


DRAFTS = pd.DataFrame(
    [draft(q, t.name) for q in QUESTIONS.itertuples() for t in TASKS[NAME].techniques]
)


def begins(text, logprob=-1.0, joins=True):
    return SimpleNamespace(text=text, logprob=logprob, joins=joins)


class Teacher:
    "A teacher with given first tokens, which notes what it was asked to continue."

    def __init__(self, begins, text=" so. <ans>True</ans>"):
        self.begins, self.text, self.asked = begins, text, []

    def first_tokens(self, prompts, k):
        return [self.begins[:k] for _ in prompts]

    def generate(self, prompts, sampling):
        self.asked += prompts
        self.sampling = sampling
        return [[Completion(self.text, len(self.text.split()), 9, "stop")] for _ in prompts]


# --- cot


def test_a_branch_goes_on_from_prompt_and_token():
    teacher = Teacher([begins(" It"), begins(" Suppose")])
    drafts, aside = cot_rationales(teacher, TASKS[NAME], QUESTIONS[:1], k=2, max_tokens=50)
    assert teacher.asked[0].endswith("step by step. It")
    assert teacher.asked[1].endswith("step by step. Suppose")
    assert drafts.rationale.tolist() == ["It so. <ans>True</ans>", "Suppose so. <ans>True</ans>"]
    assert drafts.answer.tolist() == ["True", "True"]
    assert (teacher.sampling.max_tokens, teacher.sampling.temperature) == (49, 0)
    assert aside.empty
    assert list(aside.columns) == ["stage", "task", "reason", "text"]


@pytest.mark.parametrize("first", [[], [begins("", joins=False)], [begins("So", joins=False)]])
def test_no_first_token_to_go_on_from(first):
    with pytest.raises(ValueError, match=r"4 questions and no first token.*Raise elicit\.cot"):
        cot_rationales(Teacher(first), TASKS[NAME], QUESTIONS)


def test_one_question_may_have_none():
    teacher, ends = Teacher([]), begins("", joins=False)
    teacher.first_tokens = lambda prompts, k: [[begins(" It")], *[[ends]] * (len(prompts) - 1)]
    drafts, aside = cot_rationales(teacher, TASKS[NAME], QUESTIONS, k=1)
    assert drafts.question_id.tolist() == [QUESTIONS.question_id[0]]
    assert len(aside) == 3


def test_no_questions():
    drafts, aside = cot_rationales(Teacher([begins(" It")]), TASKS[NAME], QUESTIONS[:0])
    assert drafts.empty
    assert aside.empty
    assert "rationale" in drafts


@pytest.mark.parametrize("bad", [dict(k=0), dict(max_tokens=1)])
def test_sizes_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="at least one first token"):
        cot_rationales(Teacher([begins(" It")]), TASKS[NAME], QUESTIONS, **bad)


def test_a_new_question_across_the_border_is_cut():
    "The stop string begins in the first token and ends after it, where no engine sees it."
    teacher = Teacher([begins(" Well.\n")], "Question: another one <ans>True</ans>")
    drafts, _ = cot_rationales(teacher, TASKS[NAME], QUESTIONS[:1], k=1)
    assert drafts.rationale.tolist() == ["Well."]
    assert drafts.answer.isna().all()


def test_drafts_of_branches_make_pairs_and_equal_texts_do_not():
    teacher = Teacher([begins(" It"), begins(" Suppose")])
    drafts, _ = cot_rationales(teacher, TASKS[NAME], QUESTIONS, k=2)
    s = np.linspace(0.1, 0.9, len(drafts))
    scores = pd.DataFrame(dict(level="rationale", id=drafts.draft, s=s))
    pairs, _ = rationale_pairs(drafts, scores, TASKS)
    assert len(pairs) == 4
    twice = Teacher([begins(" It"), begins(" It")])
    same, _ = cot_rationales(twice, TASKS[NAME], QUESTIONS, k=2)
    assert same.draft.is_unique
    with pytest.raises(ValueError, match="identical texts"):
        rationale_pairs(same, scores.assign(id=same.draft), TASKS)


@pytest.mark.parametrize(
    "first, text",
    [
        # writes "(" for ever: the second time, the answer has another token there
        ([begins("(", -0.1), begins("[", -3.0)], " <ans>(A)</ans>"),
        ([begins("", -0.1), begins("x", -3.0)], " <ans>A</ans>"),  # the model would end here
        ([begins("B", -0.1), begins("A", -3.0)], " <ans>A</ans>"),  # another answer
        ([begins("A", -0.1), begins("B", -3.0)], " the answer is A"),  # no tag
        ([begins("A", -0.1), begins("B", -3.0)], "A</ans> <ans>A"),  # no whole tag
    ],
)
def test_no_confidence(first, text):
    engine = SimpleNamespace(first_tokens=lambda prompts, k: [first] * len(prompts))
    assert np.isnan(answer_confidence(engine, ["Q:"], [text])).all()


def test_confidence_ends_with_the_answer():
    "A token that reaches into the closing tag ends the reading."
    calls = []

    def first_tokens(prompts, k):
        calls.append(list(prompts))
        return [[begins("A</", math.log(0.75)), begins("B", math.log(0.25))] for _ in prompts]

    engine = SimpleNamespace(first_tokens=first_tokens)
    assert answer_confidence(engine, ["Q:"], [" <ans>A</ans>"]) == pytest.approx([0.5])
    assert calls == [["Q: <ans>"]]
    with pytest.raises(ValueError):
        answer_confidence(engine, ["Q:"], [])


# --- likelihood


def student(f):
    return FunctionEngine(None, "student", lambda prompt, continuation: [f(prompt)] * 3)


def test_a_chat_template_goes_before_the_lead(tmp_path):
    asked = []
    engine = Journaled(
        Journal(tmp_path / "j.db"),
        "student",
        lambda: student(lambda p: asked.append(p) or -1.0),
        template=ChatTemplate("<user>", "</user>"),
    )
    answer_likelihoods(engine, DRAFTS, ITEMS, TASKS)
    assert asked and all(p.startswith("<user>") for p in asked)
    assert all(p.endswith("</user>So the answer is") for p in asked)


def test_empty_tables():
    engine = student(lambda p: -1.0)
    nothing = answer_likelihoods(engine, DRAFTS[:0], ITEMS, TASKS)
    assert nothing.empty and list(nothing.columns) == [
        "draft",
        "question_id",
        "technique",
        "item",
        "task",
        "logprob",
        "tokens",
    ]
    assert answer_likelihoods(engine, DRAFTS, ITEMS.assign(task="navigate"), TASKS).empty
    with pytest.raises(ValueError, match="no answers to score"):
        likelihood_scores(nothing)
    scores = likelihood_scores(answer_likelihoods(engine, DRAFTS, ITEMS, TASKS))
    with pytest.raises(ValueError, match="no question has two rationales"):
        rank_agreement(scores, scores[:0])


def test_missing_columns():
    scores = likelihood_scores(answer_likelihoods(student(lambda p: -1.0), DRAFTS, ITEMS, TASKS))
    columns = ["draft", "question_id", "technique", "item", "task"]
    with pytest.raises(ValueError, match=r"likelihood lacks the columns \['logprob'\]"):
        likelihood_scores(pd.DataFrame(columns=columns))
    with pytest.raises(ValueError, match=r"the second table of scores lacks the columns \['s'\]"):
        rank_agreement(scores, scores.drop(columns="s"))
    with pytest.raises(ValueError, match="not all tested"):
        likelihood_scores(answer_likelihoods(student(lambda p: -1.0), DRAFTS, ITEMS, TASKS)[1:])


def test_other_drafts_have_nothing_in_common():
    scores = likelihood_scores(answer_likelihoods(student(lambda p: -1.0), DRAFTS, ITEMS, TASKS))
    with pytest.raises(ValueError, match="so that their ids are equal"):
        rank_agreement(scores, scores.assign(id="x" + scores.id))


@pytest.mark.filterwarnings("error")
def test_equal_scores_order_nothing_and_make_no_pairs():
    scores = likelihood_scores(answer_likelihoods(student(lambda p: -1.0), DRAFTS, ITEMS, TASKS))
    assert scores.s.to_numpy() == pytest.approx(
        math.exp(-1)
    ) and scores.se.to_numpy() == pytest.approx(0)
    table = rank_agreement(scores, scores).set_index("measure")
    assert table.value[["rationales", "within", "questions"]].isna().all() and table.value[
        ["best", "worst"]
    ].tolist() == pytest.approx([0.25, 0.25])
    with pytest.raises(ValueError, match="tied"):
        rationale_pairs(DRAFTS, scores, TASKS)


def test_likelihood_keeps_the_order_of_mean_logprobs():
    noisy = answer_likelihoods(student(lambda p: -len(p) / 200), DRAFTS, ITEMS, TASKS)
    noisy["logprob"] += np.random.default_rng(0).normal(0, 0.3, len(noisy)) - 1
    scores = likelihood_scores(noisy)
    for level, by in (("rationale", "draft"), ("question", "question_id")):
        mean, s = noisy.groupby(by).logprob.mean(), scores[scores.level == level].set_index("id").s
        assert spearmanr(mean, s[mean.index]).statistic == pytest.approx(
            1
        ) and s.to_numpy() == pytest.approx(np.exp(mean[s.index]).to_numpy())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_agreement_of_anything(seed):
    "Values stay in range and within intervals; swapping or monotone changes change nothing."
    rng = np.random.default_rng(seed)
    a = likelihood_scores(answer_likelihoods(student(lambda p: -1.0), DRAFTS, ITEMS, TASKS))
    a, b = (a.assign(s=rng.integers(0, 5, len(a)) / 4) for _ in range(2))
    one, two, bent = (
        rank_agreement(x, y, n_boot=50) for x, y in ((a, b), (b, a), (a, b.assign(s=b.s**3)))
    )
    pd.testing.assert_series_equal(one.value, two.value)
    pd.testing.assert_series_equal(one.value, bent.value)
    ok = one.dropna()
    assert ok.value.between(-1 - 1e-9, 1 + 1e-9).all() and (ok.lo <= ok.hi).all()
    best = one[one.measure.isin(["best", "worst"])]
    assert best.value.between(0, 1).all() and best.chance.tolist() == [0.25, 0.25]


def test_all_tasks_together_do_not_agree_by_their_difficulty():
    "Two tasks, one easy and one hard for both signals, which within a task are unrelated."
    rng = np.random.default_rng(3)
    ids = [(t, f"{t}{q}", f"{t}{q}{r}") for t in "eh" for q in range(40) for r in range(4)]

    def scores():
        return pd.DataFrame(
            [
                dict(
                    level="rationale",
                    id=i,
                    question_id=q,
                    task=t,
                    s=(0.8 if t == "e" else 0.2) + 0.1 * rng.random(),
                )
                for t, q, i in ids
            ]
        )

    a, b = scores(), scores()
    table = rank_agreement(a, b, n_boot=100).set_index(["task", "measure"]).value
    assert spearmanr(a.s, b.s).statistic > 0.7 and abs(table["all", "rationales"]) < 0.2


def test_gold_answers_are_what_the_grader_takes():
    for task in (
        "boolean_expressions",
        "object_counting",
        "date_understanding",
        "sports_understanding",
    ):
        for i in make_items(task, 10, seed=1):
            assert grade(gold_text(i.answer, i.kind), i.answer, i.kind, i.question).correct


def test_cost_counts_the_preference_set_only():
    answers = pd.DataFrame(dict(tokens=[3, 4, 50], **{"set": ["pref", "pref", "val"]}))
    cost = signal_cost(answers, pd.DataFrame(dict(tokens=[5, 5])), dict(likelihood=1.0))
    assert (
        cost.written.tolist() == [7, 0]
        and cost.scored.tolist() == [0, 10]
        and cost.answers.tolist() == [2, 2]
        and math.isnan(cost.seconds[0])
    )


# --- health

ROWS = DRAFTS[DRAFTS.technique == "expert"].assign(arm="arte").reset_index(drop=True)


@pytest.mark.parametrize(
    "disguise",
    [
        str.upper,
        str.lower,
        lambda q: f"  {q} ",
        lambda q: q.replace(" ", "   "),
        lambda q: q.replace(" ", "\n\t"),
    ],
)
def test_a_test_item_in_disguise_is_caught(disguise):
    tests = [disguise(ROWS.question[2])]
    assert overlaps(list(ROWS.question), tests).same.tolist() == [False, False, True, False]
    kept, aside = drop_overlaps(ROWS, tests)
    assert len(kept) == 3
    assert aside.reason.tolist() == ["is a test item"]
    assert aside.question.tolist() == [ROWS.question[2]]


def test_a_test_item_inside_of_a_question_is_caught():
    item = (
        "Ann has a lute, a drum and two bells, and Ben has three bells more than Ann. "
        "How many bells have they?"
    )
    around = f"Once upon a time, {item} Answer with a number."
    kept, aside = drop_overlaps(ROWS.assign(question=[around, *ROWS.question[1:]]), [item])
    assert aside.reason.tolist() == ["holds 100% of a test item"]
    assert len(kept) == 3


def test_a_phrase_of_the_task_is_no_test_item():
    ask = "What is the date one week from today in MM/DD/YYYY?\nOptions:\n"
    today, born = (
        "a day on which nothing much happened in this town.",
        "and her party, with cake and a band, is tonight.",
    )
    questions = [
        f"Today is {d} May 2021, {today} {ask}(A) 05/{d}/2021\n(B) 05/{d + 7}/2021"
        for d in (11, 12, 13, 14)
    ]
    tests = [
        f"Kim was born on the {d}th of March 1999, {born} {ask}(A) 03/{d}/2019\n(B) 03/{d + 7}/2019"
        for d in (15, 16)
    ]
    found = overlaps(questions, tests)
    assert found.gram13.all()
    assert not found.covered.any()
    _, aside = drop_overlaps(ROWS.assign(question=questions), tests)
    assert aside.empty


def test_empty_tables_of_health():
    assert health(ROWS[:0], ["x"], TASKS).empty
    assert "contradicts" in health(ROWS[:0], [], TASKS)
    for kept, aside in (
        drop_contradictions(ROWS[:0], TASKS),
        drop_overlaps(ROWS[:0], ["x"]),
        drop_unanswered(ROWS[:0], TASKS),
        drop_unfinished(ROWS[:0]),
    ):
        assert kept.empty
        assert aside.empty
        assert list(kept.columns) == list(ROWS.columns)
        assert list(aside.columns) == [*ROWS.columns, "reason"]
    nothing = health(ROWS, [], TASKS)
    measures = ["exact", "same", "covered", "gram13", "gram8", "unanswered", "contradicts"]
    assert nothing[measures].to_numpy().sum() == 0
    assert nothing.n.tolist() == [4]


@pytest.mark.parametrize("column", ["arm", "question", "target", "rationale"])
def test_missing_columns_of_health(column):
    with pytest.raises(ValueError, match=rf"lack the columns \['{column}'\]"):
        health(ROWS.drop(columns=column), [], TASKS)


def test_filters_name_what_they_lack():
    with pytest.raises(ValueError, match="with_questions"):
        drop_contradictions(ROWS.drop(columns="rationale"), TASKS)
    with pytest.raises(ValueError, match="lack the columns"):
        drop_overlaps(ROWS[["draft"]], [])
    with pytest.raises(ValueError, match="give the drafts and the tailored questions together"):
        with_questions(pd.DataFrame(dict(question_id=["unknown"], completion=[" x"])), QUESTIONS)


def test_filters_keep_every_row_once():
    rng = np.random.default_rng(1)
    other = {"True": "False", "False": "True"}
    wrong = [
        text.replace(f"<ans>{target}", f"<ans>{other[target]}")
        for text, target in zip(DRAFTS.rationale, DRAFTS.target)
    ]
    rows = DRAFTS.assign(rationale=np.where(rng.random(len(DRAFTS)) < 0.4, wrong, DRAFTS.rationale))
    kept, aside = drop_contradictions(rows.sample(frac=1, random_state=0), TASKS)
    assert sorted([*kept.draft, *aside.draft]) == sorted(rows.draft)
    assert 0 < len(aside) < len(rows)
    assert all(grade(r.rationale, r.target, "truefalse").correct for r in kept.itertuples())
    assert not any(grade(r.rationale, r.target, "truefalse").correct for r in aside.itertuples())
    again, none = drop_contradictions(kept, TASKS)
    assert again.equals(kept)
    assert none.empty


def test_an_option_said_in_words_is_no_contradiction():
    question = "Which of these is a fruit?\nOptions:\n(A) carrot\n(B) pear\n(C) leek"
    said = ("pear", "(B)", "b.", "leek", "quince", "")
    rows = pd.DataFrame(dict(rationale=[f"<ans>{a}</ans>" for a in said]))
    rows = rows.assign(task="date_understanding", question=question, target="(B)")
    kept, aside = drop_contradictions(rows, TASKS)
    assert aside.rationale.tolist() == ["<ans>leek</ans>"]
    assert len(kept) == 5


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from("ab ( ) not 7".split()), max_size=24),
    st.lists(st.sampled_from("ab ( ) not 7".split()), max_size=24),
    st.integers(1, 9),
)
def test_cover_against_brute_force(a, b, n):
    x, y = words_and_marks(" ".join(a)), words_and_marks(" ".join(b))

    def runs(tokens):
        return [tokens[i : i + n] for i in range(len(tokens) - n + 1)] or [tokens]

    covered = set()
    for i, run in enumerate(runs(y)):
        if run in runs(x):
            covered |= set(range(i, i + len(run)))
    expected = len(covered) / max(1, len(y))
    assert cover_of_tests([" ".join(a)], [" ".join(b)], n) == pytest.approx([expected])
    assert cover_of_tests([" ".join(a)] * 2, ["( ( (", " ".join(b)], n)[0] >= expected


def test_outliers_of_few():
    assert not outliers(np.array([10.0, 11, 12, 13, 14, 17])).any()
    assert outliers(np.array([10.0, 11, 12, 13, 14, 18])).sum() == 1
    assert outliers(np.array([7.0])).tolist() == [False]
    assert outliers(np.array([3.0, 3, 3, 3, 900])).tolist() == [False] * 4 + [True]


def test_preference_scores_stay_the_model_of_likelihood_scores():
    "Both tables can stand in each other's place."
    table = answer_likelihoods(student(lambda p: -1.0), DRAFTS, ITEMS, TASKS)
    accuracy = preference_scores(table.assign(correct=True, parsed="True", set="pref"))
    assert (
        list(likelihood_scores(table).columns) == list(accuracy.columns)
        and likelihood_scores(table).id.tolist() == accuracy.id.tolist()
    )
