"""Measure what the paper's 1.08 million evaluations cost besides the models.

The recipe `paper` runs with models that only draw from what was recorded.

    python bench/bookkeeping.py            # all questions, then a tenth of them
    python bench/bookkeeping.py .1 OUT     # one of them, in this process

What was measured is kept in runs/bench-bookkeeping. Everything else is real: BBH's and BIG-bench's
items, prompts, parsing, grading, the journal, NUTS, tables, pairs, training sets, the report.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from math import exp
from pathlib import Path
from random import Random

import arte.run.engine
import arte.run.pipeline
import arte.run.stage
import arte.run.stages.align
import arte.run.stages.items
import arte.run.stages.train
from arte.core.answers import options
from arte.engines.protocol import Completion, cut_at_stop
from arte.engines.journaled import Journaled
from arte.models.folders import resolve_model
from arte.core.recipes import load_recipe
from arte.run.parts import PARTS
from arte.run.rundir import open_replay
from arte.core.tags import tag_question
from results import cached, save

SHARES = (1.0, 0.1)
WORDS = (
    "stone river copper lamp window garden seven market yellow engine paper bridge summer letter "
    "music coffee planet orange silver carpet"
).split()


def chance(*what):
    "A number in [0, 1) that depends on `what` only."
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=4).digest()) / 2**32


def pick(values, *what):
    return values[int(chance(*what) * len(values))]


@cache
def recorded(role):
    "What a model wrote in the recorded run: (text, tokens, prompt tokens)."
    run = open_replay()
    rows = run.journal.db.execute(
        "SELECT text, tokens, prompt_tokens FROM completions WHERE model = ? ORDER BY key",
        (run.models[role]["fingerprint"],),
    ).fetchall()
    return [r for r in rows if "<question_" not in r[0]]


class Drawn:
    """Answer with recorded texts.

    A student's answer is right with the probability of a two-parameter logistic model.
    """

    def __init__(self, role, gold):
        self.role, self.gold = role, gold
        self.fingerprint = f"drawn-{role}"

    def generate(self, prompts, sampling):
        return [[self._one(p, sampling, d) for d in range(sampling.n)] for p in prompts]

    def close(self):
        pass

    def _one(self, prompt, sampling, draw):
        if "example questions" in prompt:
            text, tokens, read = self._questions(prompt, sampling, draw), 120, 300
        else:
            text, tokens, read = self._answer(prompt)
        return Completion(cut_at_stop(text, sampling.stop) or text, tokens, read, "stop")

    def _questions(self, prompt, sampling, draw):
        "Random words, with the answer and the number of options of one of the prompt's examples."
        rng = Random(f"{prompt}{sampling.seed}{draw}")
        shown = [part.split("</input><target>") for part in prompt.split("<input>")[2:]]

        def words(n):
            return " ".join(f"{rng.choice(WORDS)}{rng.randrange(1000)}" for _ in range(n))

        def new(number):
            question, target = rng.choice(shown)
            listed = "".join(f"\n{letter} {words(2)}" for letter in options(question))
            text = words(25) + (f"\nOptions:{listed}" if listed else "")
            return tag_question(text, target.split("</target>")[0], number)

        n = 5 if "5 more questions" in prompt else 1
        return "".join(new(4 + i) for i in range(n))

    def _answer(self, prompt):
        # a question may begin with "Question: " itself
        question = prompt.rsplit("\nQuestion: ", 1)[1].split("\nAnswer:")[0]
        writer = "teacher" if self.role in ("teacher", "aligned") else "student"
        text, tokens, read = pick(recorded(writer), prompt)
        if question in self.gold and self._right(prompt, question):
            text = f"{text.partition('<ans>')[0]}<ans>{self.gold[question]}</ans>"
        return text, tokens, read

    def _right(self, prompt, question):
        "Draw whether an answer is right."
        example = prompt[: -len(question) - 60]
        ability = chance(self.role) - 1
        if "<ans>" in example[200:]:
            ability = chance(self.role) * 2 - 1 + chance(example[-200:])
        a, b = 3 * chance("a", question), 2 * chance("b", question) - 1
        return chance(prompt) < 1 / (1 + exp(-a * (ability - b)))


def without_models(folder):
    "Every model is the same small folder; training copies it and gives the recorded log."
    replay = open_replay()
    small = folder / "model"
    shutil.copytree(
        resolve_model("nano-student"),
        small,
        ignore=lambda _, names: [n for n in names if n.endswith(".safetensors")],
    )
    (small / "model.safetensors").write_bytes(b"\0" * 8)

    def train(log, out):
        out.mkdir(parents=True, exist_ok=True)
        for f in small.iterdir():
            shutil.copy(f, out)
        (out / "model.safetensors").write_bytes(out.name.encode().ljust(8))
        return log

    stages = arte.run.stages
    arte.run.engine.resolve_model = lambda name: small
    stages.align.align = lambda *_, out, **__: train(replay.table("align_log"), out)
    stages.train.distill = lambda *_, arm, out, **__: train(
        replay.table("sft_log").query("arm == 'original'").assign(arm=arm), out
    )
    golds = {}

    def engine(run, role, engines):
        if not golds:
            golds.update(zip((items := run.table("items")).question, items.answer))
        return Journaled(run.journal, f"drawn-{role}", lambda: Drawn(role, golds), label=role)

    arte.run.stage.open_engine = engine


def peak_mb():
    "Most memory so far; Linux counts in kB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(share, folder):
    "One run; the peak of memory after each stage."
    without_models(folder)
    peaks = {}

    def watched(stage):
        def noted(run, parts):
            counts = stage.run(run, parts)
            peaks[stage.name] = round(peak_mb())
            return counts

        return replace(stage, run=noted)

    parts = replace(PARTS, stages=tuple(map(watched, PARTS.stages)))
    questions = round(250 * share)
    recipe = load_recipe(
        "paper",
        engine={},
        accelerate=None,
        **{
            "elicit.questions": questions,
            "pairs.question_pairs": questions // 5,
            "prefer.agreement_questions": min(10, questions),
        },
    )
    start = time.time()
    run = arte.run.pipeline.run(recipe, folder / "run", parts=parts)
    took, bytes_ = (
        time.time() - start,
        sum(f.stat().st_size for f in (folder / "run").glob("journal.db*")),
    )
    from arte.run.report import write_report

    write_report(folder / "run")
    answers = int((run.table("answers")["set"] == "pref").sum())
    db = run.journal.db
    n, text, prompt = db.execute(
        "SELECT count(*), sum(length(text)), sum(length(prompt)) FROM completions"
    ).fetchone()
    return dict(
        share=share,
        evaluations=answers,
        completions=n,
        seconds=round(took),
        report_seconds=round(time.time() - start - took),
        peak_mb=round(peak_mb()),
        journal_mb=round(bytes_ / 1e6),
        bytes_per_completion=round(bytes_ / n),
        prompt_bytes=round(prompt / n),
        text_bytes=round(text / n),
        stages={k: round(v["seconds"]) for k, v in run.stages.items()},
        peaks=peaks,
    )


def alone(share):
    "`measured` in a process of its own, since a process' peak of memory never falls."
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, str(share), folder], check=True)
        return json.loads((Path(folder) / "measured.json").read_text())


def main():
    rows = [cached(f"bookkeeping/{share:g}", lambda share=share: alone(share)) for share in SHARES]
    save("bookkeeping", rows[::-1], seconds=sum(r["seconds"] + r["report_seconds"] for r in rows))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        Path(sys.argv[2], "measured.json").write_text(
            json.dumps(measured(float(sys.argv[1]), Path(sys.argv[2])))
        )
    else:
        main()
