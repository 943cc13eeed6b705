"""Response matrices and fits: odd shapes, floors and ceilings, repeated runs, files"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from arte.irt.check import check_fit, item_rest, recovery, shuffle_matrix, structure_test
from arte.irt.fit import fit_2pl
from arte.irt.model import simulate
from arte.irt.choose import balanced_order, discrimination_range, top_k
from arte.irt.faults import check_prefset, prefset_warnings
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


@pytest.mark.heavy
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


REPLAY = Path(__file__).parent.parent / "nbs" / "replay"


def chosen_then():
    "The recorded fit of one task, by the model as it was written before, and its matrix."
    prefset, responses = (
        pd.read_parquet(REPLAY / f"{o}.parquet") for o in ("prefset", "responses")
    )
    task = "sports_understanding"
    return prefset[prefset.task == task], response_matrix(responses[responses.task == task])


@pytest.mark.model
def test_the_model_on_long_data_has_the_posterior_of_before():
    recorded, matrix = chosen_then()
    fit = fit_2pl(matrix, chains=4)
    now = pd.DataFrame(dict(a=fit.a, b=fit.b), index=fit.items).loc[recorded["item"]]
    for name in ("a", "b"):  # Monte Carlo error is near a tenth of the standard deviation
        apart = abs(now[name].to_numpy() - recorded[name]) / recorded[f"{name}_sd"]
        assert apart.max() < 0.3, name
    first = top_k(fit, 8)
    assert set(first[first.chosen].item) == set(recorded[recorded.chosen].item)


@pytest.mark.heavy
@pytest.mark.model
def test_nutpie_finds_what_pymc_finds():
    pytest.importorskip("nutpie")
    m, _ = simulate(20, 12, seed=6)
    m.iloc[2, 3:5] = np.nan
    here, there = (fit_2pl(m, chains=2, sampler=sampler) for sampler in ("nutpie", "pymc"))
    for fit in (here, there):
        check_fit(fit)
    assert set(here.idata.posterior) == set(there.idata.posterior)
    for name in ("a", "b", "theta"):
        sd = getattr(there, f"{name}_sd")
        assert (abs(getattr(here, name) - getattr(there, name)) < 0.25 * sd).all(), name
    assert np.array_equal(here.a, fit_2pl(m, chains=2, sampler="nutpie").a)  # the same seed


def test_a_file_of_an_older_version_opens(tmp_path):
    fit = fit_2pl(simulate(15, 8, seed=1)[0], "map")
    old = replace(fit, a_range=None, b_range=None)
    back = load_fit(save_fit(old, tmp_path / "irt.nc"))
    assert back.a_range is None
    known = ~np.isnan(back.a)
    low, high = discrimination_range(back)[:, known]  # log-normal, as it was
    assert (low < back.a[known]).all() and (back.a[known] < high).all()
    pd.testing.assert_frame_equal(
        top_k(back, 3)[["item", "chosen"]], top_k(old, 3)[["item", "chosen"]]
    )


@pytest.mark.parametrize("method", ["map", "mle"])
def test_no_interval_is_of_width_zero(method):
    "Guttman's pattern, where maximum likelihood runs to its bounds, and ordinary answers."
    guttman = pd.DataFrame(np.tri(9, 8, -1), columns=[f"g-{i}" for i in range(8)])
    for m in (guttman, simulate(20, 30, seed=2)[0]):
        fit = fit_2pl(m, method)
        known = ~np.isnan(fit.a)
        for ends in (fit.a_range, fit.b_range):
            assert (np.diff(ends, axis=0)[0, known] > 0.1).all()
        low, high = fit.a_range[:, known]
        assert (low <= fit.a[known]).all() and (high >= fit.a[known] - 1e-6).all()


def test_intervals_hold_the_truth():
    "Of items at a bound as of the others, with 20 respondents; 95 % is what they promise."
    held = {(name, at): [] for name in "ab" for at in (True, False)}
    for seed in range(16):
        m, truth = simulate(20, 10, seed=seed)
        fit = fit_2pl(m, "mle")
        known = ~np.isnan(fit.a)
        at_bound = (np.isnan(fit.a_sd) | np.isnan(fit.b_sd))[known]
        for name, ends in dict(a=fit.a_range, b=fit.b_range).items():
            (low, high), true = ends[:, known], getattr(truth, name)[known]
            for at, inside in zip(at_bound, (low <= true) & (true <= high)):
                held[name, at].append(inside)
    assert len(held["a", True]) > 40
    assert {which: np.mean(x) for which, x in held.items() if np.mean(x) < 0.93} == {}


def test_information_is_chosen_at_the_students_ability():
    "A student far below the others: easy items are chosen, steep ones are not."
    m, truth = simulate(60, 40, seed=3)
    weakest = int(np.argmin(truth.theta))
    rows = [f"other @ {i}" for i in range(60)]
    rows[weakest] = "student @ 1"
    fit = fit_2pl(m.set_axis(rows, axis=0), "map")
    by_a, by_information = (
        top_k(fit, 8, by, "student @ 1") for by in ("discrimination", "information")
    )
    assert by_information.b[:8].mean() < by_a.b[:8].mean() - 0.5
    assert by_information.information[:8].sum() > 1.2 * by_a.information[:8].sum()


def test_constant_items_are_chosen_last_and_named():
    m, _ = simulate(20, 6, seed=1)
    m = m.assign(**{"sim-all": 1.0, "sim-none": 0.0})
    fit = fit_2pl(m, "map")
    items = pd.DataFrame(dict(item=fit.items, answer=["no"] * 5 + ["yes"] * 3))
    ranked = top_k(fit, 4)
    last = balanced_order(items, ranked).item.tolist()[-2:]
    assert set(last) == {"sim-all", "sim-none"}  # though they alone would balance the answers
    with pytest.warns(UserWarning, match="sim: only 6 of 8 items tell respondents apart"):
        top_k(fit, 7)
    for_student = m.set_axis([f"student @ {i}" for i in range(20)], axis=0)
    rows = for_student.rename_axis("row").reset_index().melt("row", var_name="item")
    model = rows.row.str.split(" @ ", expand=True)
    responses = rows.assign(model=model[0], shots=model[1].astype(int), correct=rows.value == 1)
    with pytest.warns(UserWarning):
        checked = check_prefset(top_k(fit, 7), items, responses)
    assert checked.constant.tolist() == [1] and checked.constants.all()
    assert "answered 1 of the 7 chosen items alike" in " ".join(prefset_warnings(checked))
