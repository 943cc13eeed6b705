"""Score the drafts of a finished run by the second signal, too (`prefer.signal: likelihood`), so that both can be compared on the same drafts,
and its pairs by the teacher before and after alignment.

    python tools/likelihood.py runs/nano

The run keeps its own scores; it gets the tables `likelihood` and `margins`, and the time the first took is noted among its stages.
"""

import sys
import time

from arte.align import log_ratios, pair_margins
from arte.beyond.likelihood import answer_likelihoods
from arte.run.parts import PARTS
from arte.run.rundir import RunDir
from arte.run.stage import Counts, opened, split, tasks_of


def main(folder):
    with RunDir(folder, RunDir(folder).recipe) as run:
        prefset, val = run.table("prefset"), split(run.table("items"), "val")
        counts, start = Counts(), time.time()
        with opened(run, "student", counts, PARTS) as student:
            table = answer_likelihoods(
                student,
                run.table("drafts"),
                val[val.item.isin(prefset[prefset.chosen].item)],
                tasks_of(run.recipe),
            )
        run.save("likelihood", table)
        run.done(
            "likelihood",
            time.time() - start,
            counts | dict(answers=len(table), scored=int(table.tokens.sum())),
        )
        run.save(
            "margins",
            pair_margins(
                run.table("pairs"),
                ratios(run, "teacher"),
                ratios(run, "aligned"),
                run.recipe.align.beta,
            ),
        )
    print(f"{len(table)} answers scored in {time.time() - start:.0f} s")


def ratios(run, role):
    with opened(run, role, Counts(), PARTS) as teacher:
        return log_ratios(teacher, run.table("pairs"))


if __name__ == "__main__":
    main(sys.argv[1])
