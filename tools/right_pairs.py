"""Align a teacher to right answers instead of a student's preference: a control of the study.

    python tools/right_pairs.py runs/seed-0 runs/seed-0-right

A draft scores 1 if a program finds its answer right, else 0, so no student is asked. Drafts of a
question that the program cannot read tie, and the question is in no pair. Everything else is as in
the first run, whose texts are taken over; only the sets of the best drafts and of the aligned
teacher are trained on. For tasks whose answers a program can find.
"""

import sys
from dataclasses import replace

from arte.core.answers import extract_answer
from arte.paper.techniques import solve_as_written
from arte.prefer import Signal, preference_scores
from arte.run.parts import PARTS
from arte.run.pipeline import run
from arte.run.rundir import RunDir

UNKNOWN = "nobody knows"  # the item of a draft whose question no program can read


def right_drafts(student, drafts, items, tasks, settings):
    "Return whether each draft ends in the right answer, in the form of a student's one answer."
    rows = drafts[["draft", "question_id", "task", "technique"]].reset_index(drop=True)
    known = [solve_as_written(task, text) for task, text in zip(drafts.task, drafts.question)]
    rows["item"] = ["right answer" if a is not None else UNKNOWN for a in known]
    rows = rows.assign(tokens=0, finish="eos", set="pref")
    rows["parsed"] = drafts.rationale.map(extract_answer).to_numpy()
    rows["correct"] = [a is not None and a == b for a, b in zip(known, rows.parsed)]
    return rows


def known_scores(answers):
    "Score drafts and questions; a question that no program can read is in no pair of questions."
    unknown = answers[answers.item == UNKNOWN].question_id
    scores = preference_scores(answers)
    return scores[(scores.level != "question") | ~scores.question_id.isin(unknown)]


RIGHT = Signal("right", known_scores, measure=right_drafts)


def main(source, target):
    "Run the control."
    recipe = RunDir(source).recipe
    recipe = replace(
        recipe,
        prefer=replace(recipe.prefer, signal=RIGHT.name, need_signal=False),
        controls=replace(recipe.controls, examples=0),
        distill=replace(recipe.distill, arms=("original", "arte")),
    )
    run(recipe, target, source, parts=replace(PARTS, signals=(*PARTS.signals, RIGHT)))


if __name__ == "__main__":
    main(*sys.argv[1:])
