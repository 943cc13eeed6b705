"""Record nbs/replay from a finished run, so that the notebooks replay it in seconds.

    python tools/replay.py runs/nano nbs/replay
    python tools/replay.py runs/study-1 nbs/paper/runs/study/seed-1 results heldout

The first records all tables, and the journal without prompts; the second only the named tables.

BBH's text must not enter the repository: its test items and the answers to them are left out (their
grades are kept, by item id). A recording that holds a BBH question or worked example is refused.
"""

import json
import re
import shutil
import sqlite3
import sys
from pathlib import Path

from arte.core.tasks import builtin_tasks
from arte.data.bbh import bbh_source, load_bbh, load_exemplars
from arte.engines.rescue import copy_journal
from arte.run.rundir import RunDir

KEPT = (
    "items questions drafts aside responses prefset answers scores pairs dropped align_log heldout "
    "heldout_drafts tailored_questions tailor_aside tailor_dropped examples health likelihood "
    "margins sft_log school_log controls control_examples forced results"
).split()


def flat(text):
    "Return a text on one line."
    return " ".join(text.split())


def bbh_texts(tasks):
    "Return every question of BBH's files and worked examples, of those tasks that are in BBH."
    if not isinstance(bbh_source(), Path):
        sys.exit("BBH's files are needed to check the recording against them: set ARTE_DATA")
    texts = set()
    for task in set(tasks) & set(builtin_tasks()):
        for shown in [*load_bbh(task), *load_exemplars(task)]:
            texts.add(flat(shown.question))
    return texts


def asked(prompt):
    "Return the questions of a prompt."
    return {flat(part.split("\nAnswer:")[0]) for part in prompt.split("Question: ")[1:]}


def holds(text, forbidden):
    """Check whether a text holds a BBH question.

    A question of a few words, as a Boolean expression, counts only as a whole: any longer
    expression may contain it.
    """
    lines = {flat(line) for line in text.split("\n")} | asked(text)
    return bool(lines & forbidden) or any(len(q) > 60 and q in flat(text) for q in forbidden)


def record_table(run, name, target, forbidden):
    """Copy a table without test items; end the program where it holds a BBH question.

    An example whose question a teacher wrote as BBH has it, by chance, is left out: no other table
    refers to it.
    """
    table = run.table(name)
    if name == "items":
        table = table[(table.split != "test") | ~table.task.isin(list(builtin_tasks()))]
    for column in table.select_dtypes("str"):
        texts = table[column].dropna().unique()
        held = table[column].isin([text for text in texts if holds(text, forbidden)])
        if held.any() and name != "examples":
            sys.exit(f"{name}.{column} holds a BBH question; nothing was recorded")
        if held.any():
            print(f"{held.sum()} of {len(table)} examples left out: their question is in BBH")
        table = table[~held]
    table.to_parquet(target / f"{name}.parquet", index=False, compression="zstd")


def record_recipe(run, target):
    "Copy the recipe, with models by name, and the files of its own tasks."
    text = run.path("recipe.yaml").read_text(encoding="utf-8")
    named = re.sub(r"(?<=[ \[])(?:/[^/\s,\]}]+)+/", "", text)  # without an absolute folder
    (target / "recipe.yaml").write_text(named, encoding="utf-8")
    if run.path("tasks").exists():
        shutil.copytree(run.path("tasks"), target / "tasks")


def record_models(run, target):
    "Write which models the run had, by folder name; the models themselves stay where they are."
    models = {}
    for role, model in run.models.items():
        models[role] = model | dict(folder=Path(model["folder"]).name)
    (target / "models.json").write_text(json.dumps(models, indent=1))


def record_journal(run, target, forbidden):
    """Copy what the run's models wrote, without BBH's text in prompt or answer.

    A run that took over another's journal has completions of that one's models, too.
    """
    models = {m["fingerprint"] for m in run.models.values()}
    journal = sqlite3.connect(run.path("journal.db"))
    keep = set()
    for key, model, prompt, text in journal.execute(
        "SELECT key, model, prompt, text FROM completions"
    ):
        if model in models and not holds(prompt, forbidden) and not holds(text, forbidden):
            keep.add(key)
    copy_journal(run.path("journal.db"), target / "journal.db", keep)


def main(source, target, *tables):
    "Record the run of one folder in another; with names of tables, these only."
    run, target = RunDir(source), Path(target)
    forbidden = bbh_texts(run.recipe.tasks)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in filter(run.has, tables or KEPT):
        record_table(run, name, target, forbidden)
    for name in ("stages.json", "environment.json"):
        shutil.copy(run.path(name), target / name)
    record_recipe(run, target)
    record_models(run, target)
    if not tables:
        record_journal(run, target, forbidden)
    for f in sorted(target.iterdir()):
        print(f"{f.stat().st_size / 1e3:9.0f} kB  {f.name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
