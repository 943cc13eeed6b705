"""A run killed with SIGKILL once in each stage, and resumed, gives what an undisturbed run gives.

Twenty-five kills with ARTE_SLOW=1 (`make slow`)."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from arte.run.rundir import RunDir
from arte.run.parts import STAGES
from support.world import entries, tables

KILLS = 25 if os.environ.get("ARTE_SLOW") else len(STAGES)


@pytest.mark.heavy
def test_killed_all_over_a_run(tiny_model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "support.killed", tiny_model, tmp_path, str(KILLS)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills = json.loads(done.stdout)
    print(f"killed {sum(kills.values())} times: {kills}")
    kills.pop("null", None)  # the last came when the run was over
    assert sum(kills.values()) >= 0.9 * KILLS and len(kills) >= 12, (
        "on a busy machine a kill may come late and fall into the next stage, but not many do"
    )

    whole, cut = RunDir(tmp_path / "whole"), RunDir(tmp_path / "cut")
    assert list(cut.stages) == list(whole.stages) == [stage.name for stage in STAGES]
    again = {
        k: n for k, n in Counter((tmp_path / "committed").read_text().splitlines()).items() if n > 1
    }
    assert not again, f"generated again although it was in the journal: {len(again)}"
    assert entries(cut) == entries(whole), (
        "completions are missing, or others than in the undisturbed run"
    )
    assert tables(cut) == tables(whole)
    assert cut.models == {
        k: v | dict(folder=v["folder"].replace("cache-whole", "cache-cut"))
        for k, v in whole.models.items()
    }
    assert not list(cut.folder.rglob(".*")), "half-written files were left behind"
