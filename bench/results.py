"""Save a benchmark's result: a table with command, date and machine, in `bench/results/`."""

import json
import math
import os
import resource
import sys
import time
from datetime import datetime, UTC
from pathlib import Path

from arte.run.rundir import environment
from arte.core.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
# When this benchmark began, and how busy the machine was with other things.
START, LOAD = time.time(), os.getloadavg()[0]


def save(
    name: str,  # file name: "irt"
    rows: list[dict],  # the table, a dictionary per row; JSON-able, NaN becomes null
    **more,  # what else is worth keeping; `seconds` replaces the time since the benchmark began
) -> Path:  # bench/results/<name>.json
    "Write a result and print its table."
    result = (
        dict(
            command=_command(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.time() - START, 1),
            load_before=round(LOAD, 2),
            machine=environment(),
        )
        | more
        | dict(rows=rows)
    )
    file = ROOT / "bench" / "results" / f"{name}.json"
    write_whole(file, _json(_plain(result)).encode())
    print(table(rows), f"\n→ {file.relative_to(ROOT)} after {result['seconds']:.0f} s", flush=True)
    return file


def cached(
    name: str,  # "irt/20x100-00-map": a file in runs/bench-…
    make,  # function without arguments; what it gives is JSON-able
):  # what it gave, now or in an earlier run, with the machine's load at that time
    "A result that is made once, also where the benchmark is killed or extended."
    file = ROOT / "runs" / f"bench-{name}.json"
    if not file.exists():
        write_whole(file, json.dumps(_plain(make() | dict(load=os.getloadavg()[0]))).encode())
    return json.loads(file.read_text())


def cpu_seconds() -> float:
    "Return the seconds of the processor so far, of this process and its children."
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usages)


def table(rows: list[dict]) -> str:
    "Rows as text, numbers with four digits."
    import pandas as pd

    return pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format, na_rep="")


def mean_se(
    x,  # (n,), numbers, n ≥ 2
) -> tuple[float, float]:  # mean, its standard error
    "A mean and how far to trust it."
    mean = sum(x) / len(x)
    return mean, math.sqrt(sum((o - mean) ** 2 for o in x) / (len(x) - 1) / len(x))


def paired(
    a,  # (n,), numbers, n ≥ 2
    b,  # (n,), of the same cases
) -> tuple[float, float, float]:  # mean of a − b, ends of its 95 % interval (Student's t)
    "A paired difference."
    from scipy.stats import t

    mean, se = mean_se([x - y for x, y in zip(a, b, strict=True)])
    half = float(t.ppf(0.975, len(a) - 1)) * se
    return mean, mean - half, mean + half


def _command():
    "The command as typed from the project's folder."
    script, args = Path(sys.argv[0]).resolve(), sys.argv[1:]
    return " ".join(
        [
            "python",
            str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name,
            *args,
        ]
    )


def _json(result):
    "JSON with a line for each field, and for each row of a table."
    fields = [f" {_line(name)}: {_value(value)}" for name, value in result.items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _line(x):
    return json.dumps(x, ensure_ascii=False)


def _value(x):
    "A field's value: a table with a line a row, anything else in one line."
    if not (isinstance(x, list) and x and isinstance(x[0], dict)):
        return _line(x)
    rows = ",\n  ".join(map(_line, x))
    return f"[\n  {rows}\n ]"


def _plain(x):
    "Numbers of numpy as Python's, NaN as null."
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(o) for o in x]
    if hasattr(x, "item"):
        x = x.item()
    return None if isinstance(x, float) and not math.isfinite(x) else x
