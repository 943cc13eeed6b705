"""Record the full matrix: every draft × every validation item, for two students.

    python bench/matrix.py runs/matrix   # two hours; its tables, without texts, go to bench/matrix/

A killed recording continues where it was. The students are the run's own, SmolLM2-135M, and the
teacher before its school, Gemma-3-270M.
"""

import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd

from arte.beyond.likelihood import answer_likelihoods
from arte.engines.transformers import TransformersEngine
from arte.engines.journaled import Journaled
from arte.models.load import ModelOptions
from arte.core.recipes import load_recipe
from arte.run.rundir import RunDir
from arte.prefer import answer_one_shot
from arte.run.parts import PARTS, STAGES
from arte.run.pipeline import stage_line
from arte.run.stage import Counts, Stage, opened, split, tasks_of

HERE = Path(__file__).parent
STUDENTS = dict(student="SmolLM2-135M", **{"teacher-base": "Gemma-3-270M"})  # role → name


def asked(run):
    return run.table("drafts"), split(run.table("items"), "val"), tasks_of(run.recipe)


def run_answers(run, parts):
    "Every draft as the one example before every validation item."
    counts, tables = Counts(), []
    for role, name in STUDENTS.items():
        with opened(run, role, counts, parts) as engine:
            tables.append(
                answer_one_shot(engine, *asked(run), run.recipe.prefer.max_tokens, "val").assign(
                    student=name
                )
            )
    run.save("matrix", pd.concat(tables))
    return counts


def run_likelihoods(run, parts):
    """The gold answers' likelihoods, with transformers.

    It reads a draft's prompt once for all items; vLLM would read it each time.
    """
    counts, tables = Counts(), []
    for role, name in STUDENTS.items():
        options = ModelOptions.of(run.recipe, role)
        make = partial(TransformersEngine, run.model_folder(role), options)
        engine = Journaled(run.journal, run.models[role]["fingerprint"], make, label=name)
        tables.append(answer_likelihoods(engine, *asked(run)).assign(student=name))
        counts.add(engine)
        engine.close()
    run.save("matrix-likelihood", pd.concat(tables))
    return counts


def tables(run):
    "The tables of bench/evaluations.py: right answers and the gold answers' likelihoods; no text."
    key = ["student", "task", "question_id", "draft", "item"]
    both = run.table("matrix")[[*key, "correct", "parsed"]].merge(
        run.table("matrix-likelihood")[[*key, "logprob"]], on=key, validate="one_to_one"
    )
    both = both.assign(parsed=both.parsed.notna(), logprob=both.logprob.astype("float32"))
    return dict(answers=both.astype(dict.fromkeys(key, "category")), prefset=run.table("prefset"))


def main(out):
    stages = [stage for stage in STAGES if stage.name in ("items", "school", "elicit", "irt")]
    stages += [Stage("answers", run_answers), Stage("likelihoods", run_likelihoods)]
    with RunDir(out, load_recipe(HERE / "matrix.yaml")) as run:
        for stage in stages:
            if stage.name in run.stages:
                continue
            start = time.time()
            counts = stage.run(run, PARTS)
            run.done(stage.name, time.time() - start, counts)
            print(stage_line(stage.name, time.time() - start, counts), flush=True)
        (HERE / "matrix").mkdir(exist_ok=True)
        for name, table in tables(run).items():
            table.to_parquet(HERE / "matrix" / f"{name}.parquet", index=False, compression="zstd")


if __name__ == "__main__":
    main(sys.argv[1])
