"The stored results of the benchmarks are what the code of today finds."

import json
from pathlib import Path

import pandas as pd
import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def evaluations(monkeypatch):
    "The benchmark, with made-up gold answers: BBH is not needed for what is compared here."
    monkeypatch.syspath_prepend(BENCH)
    import evaluations

    def gold(task):
        return pd.DataFrame(dict(item=prefset[prefset.task == task].item, answer="?"))

    prefset = pd.read_parquet(BENCH / "matrix" / "prefset.parquet")
    monkeypatch.setattr(evaluations, "load_bbh", lambda task: task)
    monkeypatch.setattr(evaluations, "items_table", gold)
    return evaluations


def test_agreement_and_its_intervals_are_those_of_the_recorded_answers(evaluations):
    stored = json.loads((BENCH / "results" / "evaluations.json").read_text())
    by = ["student", "task", "rule"]
    stored = pd.DataFrame(stored["each"]).set_index(by)
    answers = pd.read_parquet(BENCH / "matrix" / "answers.parquet")
    prefset = pd.read_parquet(BENCH / "matrix" / "prefset.parquet")
    key = ["student", "task"]
    matrices = {
        of: evaluations.Matrix(rows, prefset) for of, rows in answers.groupby(key, observed=True)
    }
    first = ("all of D_val", "likelihood alone")
    rows = []
    for (student, task), m in matrices.items():
        for rule, scores in zip(first, (m.whole, m.logprob.to_numpy(float).mean(1))):
            for question, (best, worst) in enumerate(m.picks(scores)):
                where = dict(student=student, task=task, rule=rule, setting=0, spent=0)
                rows.append(where | dict(question=question, best=best, worst=worst, order=0))
    found = pd.DataFrame(evaluations.summary(pd.DataFrame(rows), key)).set_index(by)
    assert len(found) == 8
    for name in ("n", "best", "best_lo", "best_hi", "worst", "worst_lo", "worst_hi"):
        assert found[name].to_numpy() == pytest.approx(stored.loc[found.index, name]), name
