"""Run lm-evaluation-harness, in its own environment.

`python harness.py TASKS MODEL OUT` writes what it found, answer by answer.
"""

import json
import sys

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

tasks, model, out = sys.argv[1:]
found = simple_evaluate(
    model="hf",
    model_args=dict(pretrained=model, dtype="float32"),
    device="cpu",
    batch_size=12,
    tasks=["arte_bbh"],
    task_manager=TaskManager(include_path=tasks, include_defaults=False),
    bootstrap_iters=0,
)
answers = [
    dict(
        task=t,
        item=s["doc"]["item"],
        prompt=s["arguments"][0][0],
        text=s["resps"][0][0],
        acc=s["acc"],
        unreadable=s["unreadable"],
    )
    for t, rows in found["samples"].items()
    for s in rows
]
with open(out, "w") as f:
    json.dump(
        dict(
            answers=answers,
            results={
                k: {m: v for m, v in r.items() if m in ("acc,none", "unreadable,none")}
                for k, r in found["results"].items()
            },
        ),
        f,
    )
