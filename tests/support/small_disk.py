"""A whole run, with real training, on a disk that is too small again and again: each time it is
made a little larger and the same command run again.

    unshare -m python tests/support/small_disk.py MODEL FOLDER

The disk is a tmpfs in a mount namespace of this process's own. FOLDER/whole is the same run where
there is room. Prints the messages, as JSON."""

import json
import random
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from arte.run.rundir import RunDir
from arte.run.cli import USER_ERRORS
from arte.run.pipeline import run
from support.world import SCHOOL, World, entries, tables


def grow(disk, kilobytes, *more):
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={kilobytes}k", *more]), "tmpfs", disk],
        check=True,
    )


def check_readable(folder, known):
    "Check that what is done is there, and all that was in the journal; return what is in it now."
    reader = RunDir(folder)
    for stage in reader.stages.values():
        for name, rows in stage["tables"].items():
            assert len(reader.table(name)) == rows
    now = entries(reader) if reader.path("journal.db").exists() and len(reader.journal) else set()
    assert known <= now, "the journal has lost something"
    return now


if __name__ == "__main__":
    model, folder = sys.argv[1], Path(sys.argv[2])
    patch, rng, messages, known, size = pytest.MonkeyPatch(), random.Random(0), [], set(), 8
    world = World(patch, model, folder, training=True)
    with redirect_stdout(sys.stderr):
        whole = run(world.recipe(SCHOOL), folder / "whole")
    (disk := folder / "disk").mkdir()
    grow(disk, size)
    patch.setenv("ARTE_CACHE", str(disk / "cache"))
    while True:
        try:
            with redirect_stdout(sys.stderr):
                done = run(world.recipe(SCHOOL), disk / "run")
            break
        except USER_ERRORS as e:
            messages.append(str(e).replace(str(disk), "disk"))
        # SQLite's readers need 32; a model has more than 70, so every save of one meets the end.
        grow(disk, size := size + rng.randrange(36, 64), "remount")
        if (disk / "run" / "recipe.yaml").exists():
            known = check_readable(disk / "run", known)
    assert tables(done) == tables(whole) and entries(done) == entries(whole)
    print(json.dumps(messages))
