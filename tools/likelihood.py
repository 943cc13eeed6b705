"""Score the drafts of a finished run by the second signal, too (`prefer.signal: likelihood`), so that both can be compared on the same drafts.

    python tools/likelihood.py runs/nano

The run keeps its own scores; it gets a table `likelihood`, and the time it took is noted among its stages.
"""
import sys, time

from arte.beyond.likelihood import answer_likelihoods
from arte.core.rundir import RunDir
from arte.run.stages import Counts, opened, split, tasks_of


def main(folder):
    with RunDir(folder, RunDir(folder).recipe) as run:
        prefset, val = run.table("prefset"), split(run.table("items"), "val")
        counts, start = Counts(), time.time()
        with opened(run, "student", counts) as student:
            table = answer_likelihoods(student, run.table("drafts"), val[val.item.isin(prefset[prefset.chosen].item)], tasks_of(run.recipe))
        run.save("likelihood", table)
        run.done("likelihood", time.time() - start, counts | dict(answers=len(table), scored=int(table.tokens.sum())))
    print(f"{len(table)} answers scored in {time.time() - start:.0f} s")


if __name__ == "__main__": main(sys.argv[1])
