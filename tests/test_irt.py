"""Response matrices and fits: odd shapes, floors and ceilings, repeated runs, files"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from arte.irt.check import check_fit, item_rest, recovery, shuffle_matrix, structure_test
from arte.irt.fit import fit_2pl
from arte.irt.model import simulate
from arte.irt.choose import top_k
from arte.irt.fit import load_fit, save_fit
from arte.irt.responses import response_matrix


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from(["i 1", "i-2", "3"])),
        st.booleans(),
        min_size=1,
    ),
    st.randoms(),
)
def test_matrix_holds_every_answer_once(answers, random):
    rows = [(m, s, i, c) for (m, s, i), c in answers.items()]
    random.shuffle(rows)
    S = response_matrix(pd.DataFrame(rows, columns=["model", "shots", "item", "correct"]))
    for m, s, i, c in rows:
        assert S.loc[f"{m} @ {s}", i] == c
    assert S.notna().sum().sum() == len(rows)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from(["map", "mle"]))
def test_any_small_matrix_is_fitted_or_refused_with_advice(n_respondents, n_items, seed, method):
    rng = np.random.default_rng(seed)
    Y = np.where(
        rng.random((n_respondents, n_items)) < 0.2,
        np.nan,
        rng.random((n_respondents, n_items)) < 0.5,
    )
    m = pd.DataFrame(Y, columns=[f"t-{i}" for i in range(n_items)], index=range(n_respondents))
    varied = (m.max() > m.min()).values
    if not varied.any():
        with pytest.raises(ValueError, match="answered alike"):
            fit_2pl(m, method)
        return
    fit = fit_2pl(m, method)
    assert (
        (np.isfinite(fit.a) == varied).all()
        and (fit.a[varied] > 0).all()
        and np.isfinite(fit.theta).all()
    )
    chosen = top_k(fit, int(varied.sum()))
    assert set(chosen[chosen.chosen].item) == set(m.columns[varied])


@pytest.mark.parametrize("method", ["map", "mle"])
def test_order_of_rows_and_columns_does_not_matter(method):
    m, _ = simulate(15, 12, seed=4)
    fit, turned = fit_2pl(m, method), fit_2pl(m.iloc[::-1, ::-1], method)
    assert np.allclose(fit.a, turned.a[::-1], rtol=0.02) and np.allclose(
        fit.theta, turned.theta[::-1], atol=0.02
    )


def test_missing_answers_change_nothing_but_certainty():
    m, truth = simulate(2000, 8, seed=5)
    holes = m.mask(np.random.default_rng(0).random(m.shape) < 0.3)
    full, part = fit_2pl(m, "mle"), fit_2pl(holes, "mle")
    assert (abs(part.a - truth.a) < 4 * part.a_sd).all()
    assert (part.a_sd > full.a_sd).mean() > 0.7
    assert shuffle_matrix(holes).isna().equals(holes.isna())
    assert np.isfinite(item_rest(holes)).all()


@pytest.fixture(scope="module")
def hard():
    "A small student's matrix: few right answers, gaps, dull items, a model in four equal settings."
    m, truth = simulate(16, 12, seed=7)
    m.iloc[:, :4] *= np.random.default_rng(1).random((16, 4)) < 0.3
    m.iloc[4:8] = m.iloc[4].values
    m = m.assign(**{"sim-none": 0.0})
    m.iloc[3, 3:6] = np.nan
    return m


@pytest.mark.model
def test_nuts_on_a_hard_matrix(hard, tmp_path):
    fit = fit_2pl(hard, seed=3, chains=2, draws=500, tune=500)
    check_fit(fit, min_ess=50)
    assert np.isnan(fit.a).sum() == np.isnan(fit.a_sd).sum() == (hard.min() == hard.max()).sum()
    again = fit_2pl(hard, seed=3, chains=2, draws=500, tune=500)
    assert np.array_equal(fit.a, again.a, equal_nan=True) and np.array_equal(fit.theta, again.theta)
    back = load_fit(save_fit(fit, tmp_path / "irt.nc"))
    pd.testing.assert_frame_equal(top_k(back, 5), top_k(fit, 5))
    save_fit(fit, tmp_path / "irt.nc")  # over itself
    assert [f.name for f in tmp_path.iterdir()] == ["irt.nc"]


def test_nothing_to_choose_from():
    for m in [pd.DataFrame(), pd.DataFrame([[1.0, 0.0]]), pd.DataFrame(np.zeros((5, 3)))]:
        with pytest.raises(ValueError, match="holds no answers|answered alike"):
            fit_2pl(m, "map")
    with pytest.raises(ValueError, match="empty"):
        response_matrix(pd.DataFrame(columns=["model", "shots", "item", "correct"]))


@pytest.mark.model
def test_noise_is_recognised_as_often_as_it_should():
    p = [
        structure_test(
            shuffle_matrix(simulate(20, 24, seed=s)[0], seed=s), n_shuffles=39, seed=1000 * s
        )[2]
        for s in range(20)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.2 and 0.25 < np.mean(p) < 0.75


def test_more_respondents_recover_more():
    few, many = (
        [
            recovery(t, fit_2pl(m, "map"), 12)["rho"]
            for m, t in (simulate(n, 30, seed=s) for s in range(4))
        ]
        for n in (20, 400)
    )
    assert np.mean(many) > 0.9 > np.mean(few)


@pytest.mark.model
def test_chains_agree_on_habits():
    "Some always say True, some always False: almost separable answers, as small models give them."
    rng = np.random.default_rng(0)
    says_true = np.r_[np.full(9, 0.98), np.full(7, 0.02)]
    answers = rng.random((16, 24)) < says_true[:, None]
    fit = fit_2pl(
        pd.DataFrame(
            (answers == (np.arange(24) < 13)).astype(float), columns=[f"t-{i}" for i in range(24)]
        ),
        chains=2,
        draws=500,
        tune=500,
    )
    check_fit(fit, min_ess=50)
    assert fit.a.max() < 8
