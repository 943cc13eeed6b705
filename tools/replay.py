"""Record nbs/replay from a finished run: its tables, and its journal without prompts, so that the notebooks replay it in seconds.

    python tools/replay.py runs/nano nbs/replay
    python tools/replay.py runs/table2-nano-1 nbs/paper/runs/table2-nano-1 results heldout      # only these tables, and no journal

BBH's text must not enter the repository: test items and the answers to them stay out (their grades are kept, by item id), and the recording
is refused if any BBH question or worked example stands in what is left.
"""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

from arte.engines.rescue import copy_journal
from arte.run.rundir import RunDir
from arte.data.bbh import bbh_source, load_bbh, load_exemplars

KEPT = "items questions drafts aside responses prefset answers scores pairs dropped align_log heldout heldout_drafts tailored_questions tailor_aside tailor_dropped examples health likelihood margins sft_log school_log results".split()


def flat(text):
    return " ".join(text.split())


def bbh_texts(tasks):
    "Every question of BBH's files and worked examples, of these tasks."
    if not isinstance(bbh_source(), Path):
        sys.exit("BBH's files are needed to check the recording against them: set ARTE_DATA")
    return {
        flat(t)
        for task in tasks
        for t in [i.question for i in load_bbh(task)] + [e.question for e in load_exemplars(task)]
    }


def asked(prompt):
    "The questions that stand in a prompt."
    return {flat(part.split("\nAnswer:")[0]) for part in prompt.split("Question: ")[1:]}


def holds(text, forbidden):
    "Does a BBH question stand in a text? One of a few words, as a Boolean expression, counts only as a whole: any longer expression may contain it."
    lines = {flat(line) for line in text.split("\n")} | asked(text)
    return bool(lines & forbidden) or any(len(q) > 60 and q in flat(text) for q in forbidden)


def main(source, target, *tables):
    run, target = RunDir(source), Path(target)
    forbidden = bbh_texts(run.recipe.tasks)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in filter(run.has, tables or KEPT):
        table = run.table(name)
        if name == "items":
            table = table[table.split != "test"]
        for column in table.select_dtypes("str"):
            if any(holds(text, forbidden) for text in table[column].dropna().unique()):
                sys.exit(f"{name}.{column} holds a BBH question; nothing was recorded")
        table.to_parquet(target / f"{name}.parquet", index=False, compression="zstd")
    for name in ("recipe.yaml", "stages.json", "environment.json"):
        shutil.copy(run.path(name), target / name)
    models = {
        role: m | dict(folder=Path(m["folder"]).name) for role, m in run.models.items()
    }  # the models themselves stay where they were
    (target / "models.json").write_text(json.dumps(models, indent=1))
    if not tables:
        record_journal(run, target, forbidden)
    for f in sorted(target.iterdir()):
        print(f"{f.stat().st_size / 1e3:9.0f} kB  {f.name}")


def record_journal(run, target, forbidden):
    "What the run's models wrote, without BBH's text in prompt or answer. (A run that took over another's journal has that one's models in it, too.)"
    models = {m["fingerprint"] for m in run.models.values()}
    rows = (
        sqlite3.connect(run.path("journal.db"))
        .execute("SELECT key, model, prompt, text FROM completions")
        .fetchall()
    )
    keep = {
        key
        for key, model, prompt, text in rows
        if model in models and not holds(prompt, forbidden) and not holds(text, forbidden)
    }
    copy_journal(run.path("journal.db"), target / "journal.db", keep)


if __name__ == "__main__":
    main(*sys.argv[1:])
