"""Let a model judge the drafts of a finished run: is every step right, and the answer?

    python tools/judge.py runs/seed-0 MODEL runs/judge-0

Saves a table `judged` with a row per draft: task, question_id, technique; judged, the probability
of Yes among Yes and No as the reply's first word; s, the student's score; right, whether a program
finds the draft's answer right (none: it cannot read the question).
"""

import sys
from pathlib import Path

import numpy as np

from arte.core.files import parquet, write_whole
from arte.core.settings.machine import EngineSettings
from arte.engines.open import open_model
from arte.models.folders import resolve_model
from arte.models.load import ModelOptions
from arte.paper.techniques import scored_drafts
from arte.run.rundir import RunDir

PROMPT = """Here is a question and a worked answer that was written for a beginner.

Question: {question}

Worked answer: {rationale}

Is every step of the worked answer right, and its final answer too? \
Reply with one word, Yes or No."""
COLUMNS = ["draft", "task", "question_id", "technique", "judged", "s", "right"]


def share_of_yes(first):
    "Return the probability of Yes among Yes and No; NaN if neither is among the first tokens."
    words = dict(yes=0.0, no=0.0)
    for token in first:
        word = token.text.strip().lower()
        if word in words:
            words[word] += np.exp(token.logprob)
    both = sum(words.values())
    return words["yes"] / both if both else np.nan


def main(source, model, target):
    "Judge every draft; write the table."
    drafts = scored_drafts(RunDir(source))
    asked = [
        PROMPT.format(question=d.question, rationale=d.rationale.strip())
        for d in drafts.itertuples()
    ]
    judge = open_model(resolve_model(model), ModelOptions(chat="auto"), EngineSettings())
    try:
        drafts["judged"] = [share_of_yes(first) for first in judge.first_tokens(asked, 20)]
    finally:
        judge.close()
    data, _ = parquet([drafts[COLUMNS]])
    write_whole(Path(target) / "judged.parquet", data)


if __name__ == "__main__":
    main(*sys.argv[1:])
