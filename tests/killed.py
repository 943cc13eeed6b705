"""A whole scripted run in a process of its own, which kills itself in a given stage.

    python tests/killed.py RUN MODEL COMMITTED [STAGE SECONDS]

COMMITTED gets a line for every completion that was committed to the journal."""
import os, signal, sys, threading

import pytest

from arte.core.journal import Journal
from arte.core.recipe import load_recipe
from arte.run import pipeline
from scripted import use_scripts
from test_run import SMALL, TASKS

SMALLER = SMALL | {"elicit.questions": 4, "elicit.techniques": 2, "align.held_out": 1, "prefer.agreement_questions": 1, "distill.arms": ["original", "arte"]}


def note_commits(file):
    real = Journal.write
    def write(self, table, rows):
        real(self, table, rows)
        with open(file, "a") as f: f.write("".join(f"{table} {row[0].hex()}\n" for row in rows))
    Journal.write = write


def kill_in(stage, seconds):
    real = pipeline.STAGES[stage]
    def killed(run):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        return real(run)
    pipeline.STAGES[stage] = killed


if __name__ == "__main__":
    out, model, committed, *kill = sys.argv[1:]
    use_scripts(pytest.MonkeyPatch(), TASKS)
    note_commits(committed)
    if kill: kill_in(kill[0], float(kill[1]))
    pipeline.run(load_recipe("nano", **SMALLER | {"teacher.model": model, "student.model": model}), out)
