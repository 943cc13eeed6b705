"""The full matrix: every draft × every validation item, for two students. Killed, it goes on where it was.

    python benchmarks/matrix.py runs/matrix
"""
import sys, time
from pathlib import Path

from arte.beyond.likelihood import answer_likelihoods
from arte.core.recipe import load_recipe
from arte.core.rundir import RunDir
from arte.prefer import answer_one_shot
from arte.run.pipeline import STAGES, stage_line
from arte.run.stages import Counts, opened, split, tasks_of

HERE = Path(__file__).parent


def stage_students(run):
    "What `stage_prefer` does not: the second student (the schooled teacher), and the likelihoods of both."
    tasks, drafts, val, counts = tasks_of(run.recipe), run.table("drafts"), split(run.table("items"), "val"), Counts()
    for student in ("student", "teacher"):
        with opened(run, student, counts) as engine:
            run.save(f"answers-{student}", answer_one_shot(engine, drafts, val, tasks, run.recipe.prefer.max_tokens, "val"))
            run.save(f"likelihood-{student}", answer_likelihoods(engine, drafts, val, tasks))
    return counts


def main(out):
    stages = {name: STAGES[name] for name in ("items", "school", "elicit", "irt", "prefer")} | dict(students=stage_students)
    with RunDir(out, load_recipe(HERE/"matrix.yaml")) as run:
        for name, stage in stages.items():
            if name in run.stages: continue
            start = time.time()
            counts = stage(run)
            run.done(name, time.time() - start, counts)
            print(stage_line(name, time.time() - start, counts), flush=True)


if __name__ == "__main__": main(sys.argv[1])
