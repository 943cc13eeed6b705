"""Fine-tune the student of a finished run on many training sets, and test each.

    python tools/proxy.py runs/nano runs/proxy

The sets are made of the run's drafts (arte.paper.proxy). The second folder gets the run's recipe
and the tables that nbs/paper/proxy.ipynb reads: sets, drafts, results. It may be stopped and
started again: a set whose student has been tested is not trained again.
"""

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from arte.core.files import parquet, write_whole
from arte.core.tasks import table_items
from arte.distill import distill
from arte.engines.open import open_model
from arte.eval import evaluate
from arte.models.load import ModelOptions
from arte.paper.techniques import scored_drafts
from arte.paper.proxy import proxy_sets
from arte.run.rundir import RunDir
from arte.run.stage import split, tasks_of
from arte.tailor import make_examples

SIZES = (20, 40)
BEFORE = "vanilla"


def save(folder, name, table):
    "Write a table whole."
    data, _ = parquet([table])
    write_whole(folder / f"{name}.parquet", data)


def answers_of(run, folder, name, task):
    "Test a student on the run's test items of one task."
    r = run.recipe
    items = table_items(split(run.table("items"), "test", task))
    how = dict(tasks=tasks_of(r), max_tokens=r.eval.max_tokens)
    engine = open_model(folder, ModelOptions.of(r, "student"), r.engine)
    try:
        return evaluate(engine, name, 0, items, {}, **how)
    finally:
        engine.close()


def main(source, target):
    "Train and test on every set that has not been yet; then write the tables."
    run, target = RunDir(source), Path(target)
    drafts, sets = scored_drafts(run), proxy_sets(run.table("scores"), SIZES, run.recipe.seed)
    for task in run.recipe.tasks:
        once(target, f"{BEFORE}-{task}", answers_of, run, run.model_folder("student"), BEFORE, task)
    for name, rows in sets.groupby("set", sort=False):
        once(target, name, taught, run, drafts[drafts.draft.isin(rows.draft)], name)
    results = [pd.read_parquet(path) for path in sorted(target.glob("done/*.parquet"))]
    save(target, "sets", sets)
    save(target, "drafts", drafts[["draft", "s", "words", "right"]])
    save(target, "results", pd.concat(results, ignore_index=True))
    write_whole(target / "recipe.yaml", run.path("recipe.yaml").read_bytes())


def once(target, name, answers, *what):
    "Save a student's answers, unless they are there from an earlier time."
    if (target / "done" / f"{name}.parquet").exists():
        return
    start = time.time()
    results = answers(*what)
    save(target / "done", name, results)
    print(f"{time.time() - start:4.0f} s  {results.correct.mean():.2f}  {name}", flush=True)


def taught(run, drafts, name):
    "Fine-tune the run's student on one set of drafts; return the answers of the new student."
    how = dict(settings=run.recipe.distill, seed=run.recipe.seed)
    how["options"] = ModelOptions.of(run.recipe, "student")
    examples = make_examples(name, drafts, tasks_of(run.recipe))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "student"
        distill(run.model_folder("student"), examples, name, out, **how)
        return answers_of(run, out, name, drafts.task.iloc[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
