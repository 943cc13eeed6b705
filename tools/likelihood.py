"""Score a finished run's drafts by the second signal too.

    python tools/likelihood.py runs/nano

With both scores of the same drafts, the signals of `prefer.signal` can be compared. The run keeps
its own scores; it gets the table `likelihood`, and the time it took is noted among its stages.
"""

import sys
import time

from arte.beyond.likelihood import answer_likelihoods
from arte.run.parts import PARTS
from arte.run.rundir import RunDir
from arte.run.stage import Counts, opened, split, tasks_of


def score_drafts(run):
    "Save the likelihood of the gold answers after each draft."
    prefset, val = run.table("prefset"), split(run.table("items"), "val")
    chosen = val[val.item.isin(prefset[prefset.chosen].item)]
    counts, start = Counts(), time.time()
    with opened(run, "student", counts, PARTS) as student:
        drafts = run.table("drafts")
        table = answer_likelihoods(student, drafts, chosen, tasks_of(run.recipe))
    run.save("likelihood", table)
    seconds = time.time() - start
    scored = int(table.tokens.sum())
    run.done("likelihood", seconds, counts | dict(answers=len(table), scored=scored))
    print(f"{len(table)} answers scored in {seconds:.0f} s")


def main(folder):
    "Score the drafts of the run in a folder."
    with RunDir(folder, RunDir(folder).recipe) as run:
        score_drafts(run)


if __name__ == "__main__":
    main(sys.argv[1])
