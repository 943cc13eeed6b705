"""Time how long `arte --help` and `import arte` take, beside Python alone. Half a minute.

python bench/startup.py
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from results import save

RUNS = 10
MODULES = (
    "arte",
    "arte.core.settings.recipe",
    "arte.engines.protocol",
    "arte.elicit",
    "arte.irt.choose",
    "arte.prefer",
    "arte.pairs",
    "arte.align",
    "arte.tailor",
    "arte.distill",
    "arte.eval",
    "arte.run.pipeline",
)
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "arte --help": [Path(sys.executable).with_name("arte"), "--help"],
} | {f"import {m}": [sys.executable, "-c", f"import {m}"] for m in MODULES}


def used():
    "Seconds of the processor so far, of all children."
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def timed(command):
    "Seconds on the clock and of the processor, of one start."
    start, cpu = time.perf_counter(), used()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, used() - cpu


def main():
    times = {name: [] for name in COMMANDS}
    for n in range(RUNS + 1):  # in turn, so that what else the machine does falls on all alike
        for name, command in COMMANDS.items():
            found = timed(command)
            if n:
                times[name].append(found)  # the first start reads from disk
    columns = {name: list(zip(*t)) for name, t in times.items()}
    save(
        "startup",
        [
            dict(
                what=name,
                seconds=statistics.median(wall),
                least=min(wall),
                cpu_seconds=statistics.median(cpu),
            )
            for name, (wall, cpu) in columns.items()
        ],
        n=RUNS,
        load_after=round(os.getloadavg()[0], 2),
    )


if __name__ == "__main__":
    main()
