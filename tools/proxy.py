"""Run the study of `nbs/paper/proxy`, and record it.

python tools/proxy.py runs/proxy                      # half an hour on two cores
python tools/proxy.py runs/proxy nbs/paper/runs/proxy # also record it: grades, no texts
"""

import sys
from pathlib import Path

import pandas as pd

from arte.paper.proxy import run_proxy


def record(out, target):
    "Put all grades into two small tables."
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(file for file in out.glob("*.parquet") if file.stem != "preferences")
    grades = pd.concat(map(pd.read_parquet, files), ignore_index=True)
    grades.to_parquet(target / "grades.parquet", index=False, compression="zstd")
    preferences = pd.read_parquet(out / "preferences.parquet")
    preferences.to_parquet(target / "preferences.parquet", index=False, compression="zstd")


if __name__ == "__main__":
    out, *target = map(Path, sys.argv[1:])
    run_proxy(out)
    if target:
        record(out, *target)
