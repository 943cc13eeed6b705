"""The full matrix: every draft × every validation item, for two students. Killed, it goes on where it was.

    python bench/matrix.py runs/matrix   # some two hours; then its tables, without texts, are in bench/matrix/

The students are the run's own, SmolLM2-135M, and the teacher before its school, Gemma-3-270M.
"""

import sys
import time
from pathlib import Path

import pandas as pd

from arte.beyond.likelihood import answer_likelihoods
from arte.engines.transformers import TransformersEngine
from arte.engines.journal import Journaled
from arte.models.load import ModelOptions
from arte.core.recipes import load_recipe
from arte.run.rundir import RunDir
from arte.prefer import answer_one_shot
from arte.run.pipeline import STAGES, stage_line
from arte.run.stages import Counts, opened, split, tasks_of

HERE = Path(__file__).parent
STUDENTS = dict(student="SmolLM2-135M", **{"teacher-base": "Gemma-3-270M"})  # role → name


def asked(run):
    return run.table("drafts"), split(run.table("items"), "val"), tasks_of(run.recipe)


def stage_answers(run):
    "Every draft as the one example before every validation item."
    counts, tables = Counts(), []
    for role, name in STUDENTS.items():
        with opened(run, role, counts) as engine:
            tables.append(
                answer_one_shot(engine, *asked(run), run.recipe.prefer.max_tokens, "val").assign(
                    student=name
                )
            )
    run.save("matrix", pd.concat(tables))
    return counts


def stage_likelihoods(run):
    "The gold answers' likelihoods; with transformers, which reads a draft's prompt once for all items (vLLM would read it each time)."
    counts, tables = Counts(), []
    for role, name in STUDENTS.items():
        make = lambda folder=run.model_folder(role): TransformersEngine(
            folder, ModelOptions.of(run.recipe)
        )
        engine = Journaled(run.journal, run.models[role]["fingerprint"], make, label=name)
        tables.append(answer_likelihoods(engine, *asked(run)).assign(student=name))
        counts.add(engine)
        engine.close()
    run.save("matrix-likelihood", pd.concat(tables))
    return counts


def tables(run):
    "What bench/evaluations.py reads: who answered what correctly, and how likely the gold answer was; no text."
    key = ["student", "task", "question_id", "draft", "item"]
    both = run.table("matrix")[[*key, "correct", "parsed"]].merge(
        run.table("matrix-likelihood")[[*key, "logprob"]], on=key, validate="one_to_one"
    )
    both = both.assign(parsed=both.parsed.notna(), logprob=both.logprob.astype("float32"))
    return dict(answers=both.astype(dict.fromkeys(key, "category")), prefset=run.table("prefset"))


def main(out):
    stages = {name: STAGES[name] for name in ("items", "school", "elicit", "irt")} | dict(
        answers=stage_answers, likelihoods=stage_likelihoods
    )
    with RunDir(out, load_recipe(HERE / "matrix.yaml")) as run:
        for name, stage in stages.items():
            if name in run.stages:
                continue
            start = time.time()
            counts = stage(run)
            run.done(name, time.time() - start, counts)
            print(stage_line(name, time.time() - start, counts), flush=True)
        (HERE / "matrix").mkdir(exist_ok=True)
        for name, table in tables(run).items():
            table.to_parquet(HERE / "matrix" / f"{name}.parquet", index=False, compression="zstd")


if __name__ == "__main__":
    main(sys.argv[1])
