"""Count how often a rule that spends less finds the best and the worst rationale. A minute.

    python bench/evaluations.py

The best and the worst are those by all validation items. Read from `bench/matrix/`: 200 drafts of
two tasks, each before 100 BBH items, answered by two students (recorded by `bench/matrix.py`).
"""

import numpy as np
import pandas as pd

from arte.core.basics import derive_seed
from arte.core.tasks import items_table
from arte.data.bbh import load_bbh
from arte.irt.choose import balanced_order
from arte.beyond.elimination import eliminate, expected_scores
from arte.scores.check import same_pick
from results import ROOT, save

# items a draft, for the rules that ask every draft the same
SIZES = tuple(map(int, "4 6 8 10 15 20 30 40 60 80".split()))
ERRORS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)  # for elimination
PICKS = 100  # random sets of items
PAPER, QUARTER = 40, 10  # §4.1: the 40 most discriminative items of 100


class Matrix:
    "One student's answers to one task, drafts × items; items in the order of their discrimination."

    def __init__(self, answers, prefset):
        self.drafts = (
            answers[["draft", "question_id", "task"]]
            .astype(str)
            .drop_duplicates(ignore_index=True)
            .assign(technique="", question="", rationale="")
        )
        task = self.drafts.task[0]
        ranked = prefset[prefset.task == task].sort_values("rank")
        gold = items_table(load_bbh(task)).set_index("item").answer
        self.items = pd.DataFrame(
            dict(item=ranked.item, answer=gold[ranked.item].to_numpy())
        ).reset_index(drop=True)
        self.turns = balanced_order(self.items, ranked)
        table = answers.astype(dict(draft=str, item=str)).pivot(index="draft", columns="item")
        self.right, self.parsed, self.logprob = (
            table[c].loc[self.drafts.draft, self.items.item]
            for c in ("correct", "parsed", "logprob")
        )
        self.questions = pd.factorize(self.drafts.question_id)[0]
        self.whole = self.score(self.items.item)

    def score(self, items):
        return self.right[list(items)].to_numpy(float).mean(1)

    def ask(self, pairs):
        d, i = ([getattr(o, c) for o in side] for side, c in zip(zip(*pairs), ("draft", "item")))
        at = self.right.index.get_indexer(d), self.right.columns.get_indexer(i)
        return pd.DataFrame(
            dict(
                draft=d,
                item=i,
                correct=self.right.to_numpy()[at],
                parsed=np.where(self.parsed.to_numpy()[at], "", None),
            )
        )

    def raced(self, order, error, hint=None):
        "Expected scores after elimination, and answers a draft."
        answers = eliminate(self.ask, self.drafts, order, error, hint=hint)
        s = expected_scores(self.drafts, answers, len(order), hint)
        return s[s.level == "rationale"].s.to_numpy(), len(answers) / len(self.drafts)

    def picks(self, s):
        "Per question: how surely the scores pick the same best and the same worst as all items do."
        picks = []
        for q in range(self.questions.max() + 1):
            one, whole = s[self.questions == q], self.whole[self.questions == q]
            picks.append([same_pick(one, whole)[0], same_pick(-one, -whole)[0]])
        return np.array(picks)

    def order_kept(self, s):
        "Spearman's rank correlation of the questions' scores with those over all items."
        means = pd.DataFrame(dict(s=s, whole=self.whole)).groupby(self.questions).mean()
        return means.s.corr(means.whole, method="spearman")


def rules(m):
    "(rule, setting, answers a draft, scores) on one matrix."
    likelihood = m.logprob.to_numpy(float).mean(1)
    rng = np.random.default_rng(derive_seed(0, "evaluations", m.drafts.task[0]))
    yield "all of D_val", len(m.items), len(m.items), [m.whole]
    yield "likelihood alone", 0, 0, [likelihood]
    for k in SIZES:
        yield (
            "random k",
            k,
            k,
            [m.score(rng.choice(m.items.item, k, replace=False)) for _ in range(PICKS)],
        )
        yield "IRT top k (the paper)", k, k, [m.score(m.items.item[:k])]
        yield "IRT top k, answers in turn", k, k, [m.score(m.turns.item[:k])]
    for error in ERRORS:
        for rule, order, hint in (
            ("elimination, IRT order", m.items, None),
            ("elimination, answers in turn", m.turns, None),
            ("elimination, screened by likelihood", m.turns, likelihood),
        ):
            s, spent = m.raced(order, error, hint)
            yield rule, error, spent, [s]


def measured(matrices):
    "A row per student, task, rule, setting and question."
    for (student, task), m in matrices.items():
        for rule, setting, spent, scores in rules(m):
            picks = np.mean([m.picks(s) for s in scores], 0)
            kept = np.mean([m.order_kept(s) for s in scores])
            for q, (best, worst) in enumerate(picks):
                yield dict(
                    student=student,
                    task=task,
                    rule=rule,
                    setting=setting,
                    spent=spent,
                    question=q,
                    best=best,
                    worst=worst,
                    order=kept,
                )


def share(x, n_boot=2000):
    "Mean with a bootstrap interval over questions, whose shares are fractions where scores tie."
    rng, x = np.random.default_rng(derive_seed(0, "share")), x.to_numpy()
    lo, hi = np.quantile(rng.choice(x, (n_boot, len(x))).mean(1), [0.025, 0.975])
    return x.mean(), lo, hi


def summary(rows, by):
    "Agreement of each rule with all of D_val."
    for key, g in rows.groupby([*by, "rule", "setting"], sort=False, observed=True):
        row = dict(zip([*by, "rule", "setting"], key)) | dict(
            answers_a_draft=g.groupby(["student", "task"], observed=True).spent.first().mean(),
            n=len(g),
        )
        for end in ("best", "worst"):
            row[end], row[f"{end}_lo"], row[f"{end}_hi"] = share(g[end])
        yield row | dict(order=g.groupby(["student", "task"], observed=True).order.first().mean())


def against_paper(rows, rule, setting, n_boot=10_000):
    "How far a rule is ahead of the paper's, best and worst together; bootstrap over questions."
    both = rows.assign(both=(rows.best + rows.worst) / 2).set_index(["student", "task", "question"])
    a, b = (
        both[(both.rule == r) & (both.setting == s)].both
        for r, s in ((rule, setting), ("IRT top k (the paper)", PAPER))
    )
    gain = (a - b).to_numpy()
    rng = np.random.default_rng(derive_seed(0, "against the paper"))
    lo, hi = np.quantile(
        gain[rng.integers(len(gain), size=(n_boot, len(gain)))].mean(1), [0.025, 0.975]
    )
    return dict(rule=rule, setting=setting, n=len(gain), ahead=gain.mean(), lo=lo, hi=hi)


def leaning(matrices):
    "How much of the preference set has the same gold answer."

    def most(items):
        return items.answer.value_counts(normalize=True).iloc[0]

    for m in matrices:
        yield dict(
            task=m.drafts.task[0],
            of_all=most(m.items),
            of_top_k=most(m.items[:PAPER]),
            of_turns=most(m.turns[:PAPER]),
        )


def cheap(table):
    "Of every rule the setting that spends most within a quarter of the paper's answers."
    return (
        table[table.answers_a_draft <= QUARTER]
        .sort_values("answers_a_draft")
        .groupby("rule", sort=False)
        .tail(1)
    )


def main():
    answers, prefset = (
        pd.read_parquet(ROOT / "bench" / "matrix" / f"{name}.parquet")
        for name in ("answers", "prefset")
    )
    matrices = {
        key: Matrix(rows, prefset)
        for key, rows in answers.groupby(["student", "task"], observed=True)
    }
    rows = pd.DataFrame(measured(matrices))
    table = pd.DataFrame(summary(rows, []))
    ahead = [
        against_paper(rows, r.rule, r.setting) | dict(answers_a_draft=r.answers_a_draft)
        for r in cheap(table).itertuples()
    ]
    print(pd.DataFrame(ahead).to_string(index=False, float_format="{:.3f}".format), "\n")
    save(
        "evaluations",
        table.to_dict("records"),
        against_paper=ahead,
        each=list(summary(rows, ["student", "task"])),
        same_answer=list(leaning({m.drafts.task[0]: m for m in matrices.values()}.values())),
    )


if __name__ == "__main__":
    main()
