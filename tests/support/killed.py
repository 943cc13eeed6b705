"""Whole runs, killed and resumed: scripts generate, training is real (see `world`).

    python tests/support/killed.py MODEL FOLDER KILLS

One run in FOLDER/whole is left alone. One in FOLDER/cut is killed KILLS times, at random moments
of the stages in turn, and started again each time; FOLDER/committed gets a line for every
completion that went into its journal. Prints how often it was killed in each stage, as JSON.
The runs are forked from this process, which has loaded the libraries: the moments fall into the
stages' own work."""

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pymc  # noqa: F401
import pytest
from trl import DPOTrainer, SFTTrainer  # noqa: F401

from arte.engines.journal import Journal
from arte.run import pipeline, stage
from arte.run.engine import open_engine
from arte.run.parts import PARTS, STAGES
from support.world import EVERY_STAGE, World


class Killed(World):
    def start(self, run, before=lambda stage: None, after=lambda stage: None):
        "Begin or resume a run in a new process that calls `before` and `after` around each stage."

        def watched(stage):
            def go(folder, parts):
                before(stage.name)
                counts = stage.run(folder, parts)
                after(stage.name)
                return counts

            return replace(stage, run=go)

        if pid := os.fork():
            return pid
        try:
            os.environ["ARTE_CACHE"] = str(self.folder / f"cache-{run}")
            parts = replace(PARTS, stages=tuple(map(watched, STAGES)))
            os.dup2(os.open(self.folder / f"{run}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
            pipeline.run(self.recipe(EVERY_STAGE), self.folder / run, parts=parts)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def undisturbed(self):
        "Seconds of each stage, of a run that is left alone."
        begun, file = {}, self.folder / "seconds"

        def before(stage):
            begun[stage] = time.perf_counter()

        def after(stage):
            with open(file, "a") as f:
                print(stage, time.perf_counter() - begun[stage], file=f)

        assert os.waitpid(self.start("whole", before, after), 0)[1] == 0
        return {stage: float(s) for stage, s in map(str.split, file.read_text().splitlines())}

    def kill(self, stage, seconds):
        """Start or resume the run, and kill it some seconds after it has entered a stage, or as it
        enters the next. Return the stage in which it died; None if it came to its end."""
        entered, enter = os.pipe()
        pid = self.start("cut", lambda name: os.write(enter, f"{name}\n".encode()))
        os.close(enter)
        names, place = [], [stage.name for stage in STAGES].index

        def more(wait):
            "Have further stages been entered within so many seconds?"
            new = (
                os.read(entered, 4096).decode().split()
                if select.select([entered], [], [], wait)[0]
                else []
            )
            names.extend(new)
            return bool(new)

        while not (names and place(names[-1]) >= place(stage)) and more(None):
            pass  # a run that is past it was killed late before
        more(seconds)
        os.kill(pid, signal.SIGKILL)
        killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
        while more(None):
            pass
        os.close(entered)
        return names[-1] if killed else None


def note_commits(file):
    write = Journal.write

    def noted(self, table, rows):
        write(self, table, rows)
        with open(file, "a") as f:
            f.write("".join(f"{table} {row[0].hex()}\n" for row in rows))

    Journal.write = noted


def commit_often(n):
    "A journal that commits every `n` completions, so that there are moments between."

    def often(run, role, engines):
        journaled = open_engine(run, role, engines)
        journaled.chunk = n
        return journaled

    stage.open_engine = often


if __name__ == "__main__":
    model, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    patch, rng, killed = pytest.MonkeyPatch(), random.Random(0), Counter()
    world = Killed(patch, model, folder, training=True)
    commit_often(8)
    seconds = world.undisturbed()
    note_commits(folder / "committed")
    stages = list(seconds)
    plan = sorted(
        (stages * (kills // len(stages)) + rng.sample(stages, kills % len(stages))),
        key=stages.index,
    )  # each in turn, the rest at random
    for stage in plan:
        killed[world.kill(stage, rng.random() * seconds[stage])] += 1
    assert os.waitpid(world.start("cut"), 0)[1] == 0
    print(json.dumps(killed))
