"""Fit the other packages' two-parameter logistic models, with their own defaults.

Runs in `bench/.venv-irt`, asked by `bench/irt.py`. A line on standard input is a request,
`{"method": "girth", "matrix": "x.npz"}`; a line on standard output is the answer,
`{"a": [...], "seconds": 1.2, "cpu": 1.1}`. The matrix is `responses`, (respondents, items) of 0 and
1 without items that all answered alike. Imports and a first small fit are not timed.
"""

import contextlib
import json
import sys
import time
import numpy as np


def py_irt(Y, priors=None):
    """As py-irt's command line `py-irt train 2pl`.

    2,000 steps of variational inference, Adam 0.1, vague priors; the best parameters it saw
    (`best_parameters.json`).
    """
    import pandas as pd
    from py_irt.config import IrtConfig
    from py_irt.dataset import Dataset
    from py_irt.training import IrtModelTrainer

    data = Dataset.from_pandas(pd.DataFrame(Y, columns=[f"i{i:03d}" for i in range(Y.shape[1])]))
    trainer = IrtModelTrainer(
        config=IrtConfig(model_type="2pl", priors=priors),
        data_path=None,
        dataset=data,
        verbose=False,
    )
    trainer.train()
    best = trainer.best_params
    place = {name: best["disc"][i] for i, name in best["item_ids"].items()}
    return [place[f"i{i:03d}"] for i in range(Y.shape[1])]


def py_irt_hierarchical(Y):
    "The same with `--priors hierarchical`, py-irt's other choice."
    return py_irt(Y, "hierarchical")


def girth(Y):
    "girth's `twopl_mml`: marginal maximum likelihood, 41 quadrature points, 25 iterations at most."
    from girth import twopl_mml

    return twopl_mml(Y.astype(int).T)["Discrimination"]


def girth_eap(Y):
    "girth's `twopl_mml_eap`: its mixed expected a posteriori and marginal maximum likelihood."
    from girth import twopl_mml_eap

    return twopl_mml_eap(Y.astype(int).T)["Discrimination"]


def mirt(Y):
    "mirt's `fit_mirt`: EM with 21 quadrature points, at most 500 iterations, standard errors."
    from mirt import fit_mirt

    return _slopes(fit_mirt(Y.astype(int), model="2PL"))


def mirt_gibbs(Y):
    'mirt\'s Gibbs sampler, `estimation="Gibbs"`: posterior means.'
    from mirt import fit_mirt

    return _slopes(fit_mirt(Y.astype(int), model="2PL", estimation="Gibbs"))


def _slopes(fit):
    return fit.model.parameters["discrimination"]


METHODS = {
    "py-irt": py_irt,
    "py-irt hierarchical": py_irt_hierarchical,
    "girth": girth,
    "girth eap": girth_eap,
    "mirt": mirt,
    "mirt gibbs": mirt_gibbs,
}


warm = set()  # methods that have been called once


def fit(method, Y):
    "(discriminations, seconds on the clock, seconds of the processor)"
    if method not in warm:
        warm.add(method)
        METHODS[method]((np.add.outer(np.arange(12), np.arange(10)) % 3 > 0).astype(float))
    start, cpu = time.perf_counter(), time.process_time()
    a = METHODS[method](Y)
    return [float(o) for o in np.ravel(a)], time.perf_counter() - start, time.process_time() - cpu


for line in sys.stdin:
    ask = json.loads(line)
    with contextlib.redirect_stdout(sys.stderr):
        a, seconds, cpu = fit(ask["method"], np.load(ask["matrix"])["responses"])
    print(json.dumps(dict(a=a, seconds=seconds, cpu=cpu)), flush=True)
