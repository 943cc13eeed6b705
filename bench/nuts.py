"""Compare the two samplers of NUTS, nutpie's and PyMC's own, on simulated matrices of 20 × 100.

    python bench/nuts.py               # 5 matrices: five minutes
    python bench/nuts.py --matrices 2  # a look

Both fit the same matrix one after the other, the next matrix in the other order, so that the ratio
of their times depends little on what else the machine does; that of processor time, even less.
"""

import argparse
import os

# on matrices this small, more threads are slower
os.environ["OMP_NUM_THREADS"] = "1"
import time

import numpy as np
import pandas as pd

from arte.irt.check import check_fit, recovery
from arte.irt.fit import fit_2pl
from arte.irt.model import simulate
from results import cpu_seconds, paired, save

SHAPE, SAMPLERS, K = (20, 100), ("nutpie", "pymc"), 40  # §4.1


def fitted(matrix, truth, seed, sampler):
    "Return the time of a fit, how well it recovers the truth, and its diagnostics."
    start, cpu = time.perf_counter(), cpu_seconds()
    fit = fit_2pl(matrix, "nuts", seed, sampler=sampler)
    times = dict(seconds=time.perf_counter() - start, cpu=cpu_seconds() - cpu)
    found = check_fit(fit, max_rhat=np.inf, min_ess=0, max_divergent=1)
    return times | recovery(truth, fit, K) | found


def matrix_rows(seed):
    "Fit one matrix with both samplers; return a row for each."
    matrix, truth = simulate(*SHAPE, seed=seed)
    rows = []
    for sampler in SAMPLERS if seed % 2 else SAMPLERS[::-1]:
        rows.append(dict(seed=seed, sampler=sampler) | fitted(matrix, truth, seed, sampler))
        print(f"matrix {seed + 1}, {sampler}: {rows[-1]['seconds']:.1f} s", flush=True)
    return rows


def times_faster(fits, what):
    "Return how many times as fast nutpie is: the geometric mean over matrices, its 95 % interval."
    times = fits.pivot(index="seed", columns="sampler", values=what)
    ratios = np.log(times.pymc / times.nutpie)
    return [float(np.exp(x)) for x in paired(ratios.tolist(), [0.0] * len(ratios))]


def main(n):
    "Fit all matrices with both samplers, and save."
    for sampler in SAMPLERS:  # imports and first compilations are not timed
        fit_2pl(simulate(12, 10)[0], "nuts", draws=20, tune=20, sampler=sampler)
    fits = pd.DataFrame([row for seed in range(n) for row in matrix_rows(seed)])
    medians = fits.groupby("sampler")[["seconds", "cpu", "ess_bulk", "r_hat"]].median()
    means = fits.groupby("sampler")[["rho", "overlap"]].mean()
    more = dict(respondents=SHAPE[0], items=SHAPE[1], n=n, k=K)
    for what in ("seconds", "cpu"):
        more[f"times_faster_{what}"] = times_faster(fits, what)
    rows = medians.join(means).reset_index().to_dict("records")
    save("nuts", rows, **more, fits=fits.to_dict("records"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrices", type=int, default=5, help="at least 2")
    main(parser.parse_args().matrices)
