"""Killed with SIGKILL again and again, all over a run, and resumed: what comes out is what an undisturbed run gives.

Three kills here; twenty-five with ARTE_SLOW=1 (`make slow`)."""
import os, random, signal, subprocess, sys
from collections import Counter
from pathlib import Path

from arte.core.rundir import RunDir
from arte.run.pipeline import STAGES
from test_run import tiny_model  # noqa: F401  (a fixture)

KILLS = 25 if os.environ.get("ARTE_SLOW") else 3


def start(*args):
    done = subprocess.run([sys.executable, Path(__file__).with_name("killed.py"), *map(str, args)], capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode


def test_killed_all_over_a_run(tiny_model, tmp_path):  # noqa: F811
    assert start(tmp_path/"whole", tiny_model, tmp_path/"ignored") == 0
    whole = RunDir(tmp_path/"whole")
    seconds = {s: whole.stages[s]["seconds"] for s in STAGES}
    worth = [s for s in STAGES if seconds[s] >= .1]
    rng, committed = random.Random(0), tmp_path/"committed"
    kills = Counter()
    for stage in sorted(rng.choices(worth, k=KILLS), key=list(STAGES).index):
        if start(tmp_path/"cut", tiny_model, committed, stage, rng.random()*seconds[stage]): kills[stage] += 1
    assert kills.total() >= KILLS/2, f"hardly ever hit: {kills}"
    assert start(tmp_path/"cut", tiny_model, committed) == 0
    print(f"killed {kills.total()} times: {dict(kills)}")

    again = {k: n for k, n in Counter(committed.read_text().splitlines()).items() if n > 1}
    assert not again, f"generated again although it was in the journal: {len(again)}"
    cut = RunDir(tmp_path/"cut")
    assert list(cut.stages) == list(STAGES)
    assert len(cut.journal) == len(whole.journal)
    tables = {f.name for f in whole.folder.glob("*.parquet")}
    assert tables == {f.name for f in cut.folder.glob("*.parquet")}
    assert not [t for t in sorted(tables) if (whole.folder/t).read_bytes() != (cut.folder/t).read_bytes()]
