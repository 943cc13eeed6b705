"""Compare our three fits of item response theory with py-irt, girth and mirt on simulated matrices.

    python bench/irt.py               # 20 matrices of 20 × 100, and 20 of 100 × 100: half an hour
    python bench/irt.py --matrices 2  # a look

A killed benchmark continues where it was. The other packages live in an environment of their own,
`bench/.venv-irt`, made at the first start (1.3 GB with torch's CPU build; Python 3.11, for py-irt).
R's mirt is missing: neither Debian's packages nor PyPI have it. The `mirt` here is PyPI's, a
package of another author in Python and Rust.
"""

import argparse
import json
import os
import subprocess
import sys
import time

# For all of them: on matrices this small, more threads are slower.
os.environ["OMP_NUM_THREADS"] = "1"
from dataclasses import replace
import numpy as np
import pandas as pd

from arte.irt.check import check_fit, recovery
from arte.irt.fit import fit_2pl
from arte.irt.model import simulate
from results import ROOT, cached, cpu_seconds, mean_se, paired, save

OTHERS, CACHE = ROOT / "bench" / ".venv-irt", ROOT / "runs" / "bench-irt"
SHAPES = (20, 100), (100, 100)  # respondents × items
OURS, THEIRS = (
    ("nuts", "map", "mle"),
    ("py-irt", "py-irt hierarchical", "girth", "girth eap", "mirt", "mirt gibbs"),
)
K = 40  # §4.1


class Worker:
    "The other packages, in a process of their own that stays, so that imports are not timed."

    def __init__(self):
        self.process = None

    def fit(self, method, matrix):
        if self.process is None:
            self.process = self._start()
        np.savez(CACHE / "matrix.npz", responses=matrix.values)
        self.process.stdin.write(
            json.dumps(dict(method=method, matrix=str(CACHE / "matrix.npz"))) + "\n"
        )
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            code, log = self.process.wait(), CACHE / "others.log"
            raise RuntimeError(f"{method} stopped with exit code {code}; its messages are in {log}")
        return json.loads(answer)

    def _start(self):
        if not (OTHERS / "installed").exists():
            install()
        CACHE.mkdir(parents=True, exist_ok=True)
        log = open(CACHE / "others.log", "a")
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.Popen(
            [OTHERS / "bin" / "python", ROOT / "bench" / "irt_others.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
        )


def install():
    "Make `bench/.venv-irt`; torch first, so that the build of this machine's index is taken."
    if sys.version_info >= (3, 12):
        raise SystemExit(
            "py-irt asks for a Python before 3.12. Run this benchmark with Python 3.11."
        )
    print(f"making {OTHERS.relative_to(ROOT)} (a few minutes, once)", flush=True)
    requirements = ROOT / "constraints" / "bench-irt.txt"
    torch = next(o for o in requirements.read_text().splitlines() if o.startswith("torch=="))
    pip = [OTHERS / "bin" / "pip", "install", "-q"]
    subprocess.run([sys.executable, "-m", "venv", "--clear", OTHERS], check=True)
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, "-r", requirements], check=True)
    (OTHERS / "installed").touch()


def fit_ours(method, matrix, seed):
    "As `Worker.fit`, and whether `check_fit` trusts it."
    start, cpu = time.perf_counter(), cpu_seconds()
    fit = fit_2pl(matrix, method, seed, sampler="pymc")  # bench/nuts.py has nutpie
    found = dict(a=fit.a.tolist(), seconds=time.perf_counter() - start, cpu=cpu_seconds() - cpu)
    try:
        check_fit(fit)
    except ValueError as e:
        found |= dict(refused=str(e))
    return found


def matrix_rows(shape, seed, worker):
    "One matrix and every method on it, one after the other."
    whole, truth = simulate(*shape, seed=seed)
    # items that all answered alike say nothing about their discrimination
    matrix = whole.loc[:, whole.nunique() == 2]
    truth = replace(truth, a=truth.a[whole.nunique() == 2])
    for method in OURS + THEIRS:
        name = f"irt/{shape[0]}x{shape[1]}-{seed:02d}-{method.replace(' ', '-')}"
        found = cached(
            name,
            lambda: (
                fit_ours(method, matrix, seed) if method in OURS else worker.fit(method, matrix)
            ),
        )
        yield (
            dict(respondents=shape[0], items=shape[1], seed=seed, method=method)
            | recovery(truth, replace(truth, a=np.array(found["a"], float)), K)
            | {k: found.get(k) for k in ("seconds", "cpu", "load", "refused")}
        )


def summary(fits):
    """A row per shape and method: means with standard errors.

    Also what NUTS has more, matrix by matrix, with 95 % intervals.
    """
    for (shape, method), g in fits.groupby(["respondents", "method"], sort=False):
        nuts = fits[(fits.respondents == shape) & (fits.method == "nuts")]
        row = dict(respondents=shape, items=g["items"].iloc[0], method=method, n=len(g))
        for what in ("rho", "overlap"):
            row[what], row[f"{what}_se"] = mean_se(g[what].tolist())
            row[f"nuts_more_{what}"], row[f"{what}_lo"], row[f"{what}_hi"] = paired(
                nuts[what].tolist(), g[what].tolist()
            )
        yield row | dict(
            seconds=g.seconds.median(),
            cpu_seconds=g.cpu.median(),
            nuts_seconds_share=float(np.median(nuts.seconds.values / g.seconds.values)),
            nuts_cpu_share=float(np.median(nuts.cpu.values / g.cpu.values)),
            refused=int(g.refused.notna().sum()),
        )


def main(n):
    worker, rows = Worker(), []
    # imports and PyTensor's first compilation are not timed
    fit_2pl(simulate(12, 10)[0], "nuts", draws=20, tune=20, sampler="pymc")
    for seed in range(n):
        for shape in SHAPES:
            rows += matrix_rows(shape, seed, worker)
            print(
                f"{shape[0]} × {shape[1]}, matrix {seed + 1} of {n}: "
                + ", ".join(
                    f"{r['method']} {r['rho']:.2f} in {r['seconds']:.1f} s" for r in rows[-9:]
                ),
                flush=True,
            )
    fits = pd.DataFrame(rows)
    packages = subprocess.run(
        [OTHERS / "bin" / "pip", "freeze"], capture_output=True, text=True
    ).stdout.split()
    save(
        "irt",
        list(summary(fits.sort_values("respondents", kind="stable"))),
        seconds=round(fits.seconds.sum(), 1),
        mean_load=round(fits.load.mean(), 2),
        k=K,
        others=[
            p
            for p in packages
            if p.startswith(("py-irt", "girth", "mirt", "torch", "pyro-ppl", "numpy"))
        ],
        fits=fits.to_dict("records"),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrices", type=int, default=20, help="of each shape, at least 2")
    main(parser.parse_args().matrices)
