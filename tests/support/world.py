"""Whole runs in a fraction of a second: scripts take the place of models and answer by their
model's fingerprint. Unless training is wanted, a file takes the place of a trained model; its
fingerprint depends on all that went into it. Stages, tables, journal and what is known about
trained models are the real ones."""

import json
import shutil
from hashlib import blake2b
from pathlib import Path

import pandas as pd

import arte.models.nano.school as nano
import arte.models.nano.student as pupil
import arte.run.stages.align as align_stage
import arte.run.stages.train as train_stage
from arte.engines.protocol import FunctionEngine
from arte.models.folders import fingerprint
from arte.core.files import whole_folder
from arte.data.generated.form import TECHNIQUES
from arte.data.generated.tasks import make_items, solve, write_rationale
from arte.core.recipes import load_recipe
from arte.core.tags import tag_question
from arte.core.tasks import get_task
from arte.run.pipeline import run
from support.scripted import chance
from support.tiny import SMALL, TASKS

ALL_TASKS = [*TASKS, "sports_understanding"]
SMALLER = (
    SMALL
    | {
        "align.max_length": 1000,  # question pairs are long
        "tasks": TASKS[:1],
        "teacher.model": "teacher",
        "student.model": "student",
        "data.n_seed": 4,
        "data.n_val": 8,
        "data.n_test": 8,
        "elicit.questions": 6,
        "elicit.min_finished": 0,
        "elicit.min_readable": 0,
        "elicit.techniques": 3,
        "irt.k": 5,
        "prefer.agreement_questions": 1,
        "align.held_out": 1,
        "distill.arms": ["original", "arte"],
    }
)
SCHOOL = {
    f"teacher.school.{k}": v
    for k, v in dict(rationales=4, questions=2, checkpoints=2, vocabulary=300).items()
}
UNSEEN = {"unseen.tasks": ["sports_understanding"], "unseen.examples": 4}
EVERY_STAGE = (
    SCHOOL | UNSEEN | {"rounds": 2, "eval.benchmarks": ["gsm8k"], "transfer.students": ["other"]}
)  # so that none has nothing to do


def copy_model(like, out, name):
    "The same model under a fingerprint of its own; its chat template names it."
    with whole_folder(out) as tmp:
        shutil.copytree(like, tmp, dirs_exist_ok=True)
        (tmp / "chat_template.jinja").write_text(f"{{{{ messages[0]['content'] }}}} (to {name})")


def write_model(like, out, *made_of):
    "Write a model folder like another one, with weights that say what it was made of."
    digest = blake2b(repr(made_of).encode()).digest()
    with whole_folder(out) as tmp:
        shutil.copytree(like, tmp, dirs_exist_ok=True)
        (tmp / "model.safetensors").write_bytes(digest)
        (tmp / "adapter_model.safetensors").write_bytes(digest)


def teach(name, prompt, sampling, draw):
    "A teacher: its own questions, its own naive rationales, now and then a wrong answer in one."
    task = next(
        t
        for t in map(get_task, ALL_TASKS)
        if t.title in prompt
        or t.description in prompt
        or any(prompt.startswith(o.prompt) for o in t.techniques)
    )
    if "between <instruction> and </instruction>" in prompt:
        return f"<instruction>Write like {chance(name, prompt, sampling.seed):.6f}.</instruction>"
    if "example questions" in prompt:
        items = make_items(
            task.name,
            5 if "5 more" in prompt else 1,
            int(chance(name, prompt, sampling.temperature, sampling.seed, draw) * 2**30),
        )
        return "\n".join(tag_question(i.question, i.answer, x) for x, i in enumerate(items, 4))
    question = prompt.rsplit("Question: ", 1)[1].split("\nAnswer:")[0]
    named = next((t.name for t in task.techniques if prompt.startswith(t.prompt)), None)
    text, gold = (
        write_rationale(
            question, task.name, named or list(TECHNIQUES)[int(chance(name, question) * 4)]
        ),
        solve(task.name, question),
    )
    return " " + (
        text
        if named or chance("slip", name, question) < 0.7
        else text.replace(
            f"<ans>{gold}</ans>", f"<ans>{'False' if gold == 'True' else 'True'}</ans>"
        )
    )


def answer(name, prompt, sampling, draw):
    "A student: right half of the time."
    task = next((t for t in map(get_task, ALL_TASKS) if t.description in prompt), None)
    if task is None:
        return " no idea"
    gold = solve(task.name, prompt.rsplit("Question: ", 1)[1].split("\nAnswer:")[0])
    return f" So the answer is <ans>{gold if chance(name, prompt) < 0.5 else 'none'}</ans>"


class World:
    "Runs on scripts, and which models were trained in them."

    def __init__(self, patch, tiny_model, folder, training=False):
        self.models, self.folder, self.learnt, self.firsts = (
            {n: Path(folder, n) for n in ("teacher", "student", "other")},
            Path(folder),
            [],
            {},
        )
        for name, place in self.models.items():
            copy_model(tiny_model, place, name)
        self.write_data(patch)
        patch.setenv("ARTE_CACHE", str(self.folder / "cache"))
        patch.setattr(
            "arte.run.engine.live_engine",
            lambda run, role, folder, engines, prompts: self.open(
                role, run.models[role]["fingerprint"]
            ),
        )
        patch.setattr("arte.run.pipeline.check_four_bit", lambda device: None)
        patch.setattr(nano, "trim_vocabulary", lambda base, out, n: copy_model(base, out, n) or out)
        if not training:
            self.make_quick(patch)

    def make_quick(self, patch):
        trained = (align_stage, "align"), (train_stage, "distill"), (nano, "sft"), (pupil, "sft")
        for place, name in trained:
            patch.setattr(place, name, getattr(self, name))
        patch.setattr(align_stage, "surviving_share", lambda *models: 1.0)
        for slow in ("os.fsync", "arte.run.rundir.environment", "arte.run.stages.irt.save_fit"):
            patch.setattr(slow, lambda *a: {})

    def write_data(self, patch):
        "BBH and a benchmark in folders, of our own items."
        for task in TASKS:
            self.write(
                "bbh",
                f"{task}.json",
                json.dumps(
                    dict(
                        examples=[
                            dict(input=i.question, target=i.answer) for i in make_items(task, 30, 7)
                        ]
                    )
                ),
            )
        pens = [
            dict(
                question=f"Ann has {i} pens and gets {i} more. How many has she?",
                answer=f"{i} + {i} = {2 * i}.\n#### {2 * i}",
            )
            for i in range(1, 21)
        ]
        self.write("benchmarks/gsm8k", "test.jsonl", "\n".join(map(json.dumps, pens)))
        patch.setenv("ARTE_DATA", str(self.folder / "bbh"))
        patch.setenv("ARTE_BENCHMARKS", str(self.folder / "benchmarks"))

    def write(self, folder, name, text):
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        (self.folder / folder / name).write_text(text)

    def open(self, role, name):
        def write(prompt, *how):
            script = teach if role == "teacher" or role.startswith("aligned") else answer
            if role == "teacher" and "Remember you should include" in prompt:
                script = answer  # a schooled teacher is a respondent too
            return script(name, prompt, *how)

        return FunctionEngine(
            write,
            name,
            lambda p, c: [-chance(name, p, c)],
            lambda p: [(" First", 0.6), (" So", 0.4)],
        )

    def learn(self, like, out, *made_of):
        out = Path(out)
        outer = out.parents[1].name  # the run folder, or the folder of a further round
        number = outer.removeprefix("round") if outer.startswith("round-") else ""
        self.learnt.append(out.name + number)
        write_model(like, out, fingerprint(like), *made_of)
        return pd.DataFrame(dict(step=[1, 2], loss=[1.0, 0.5], lr=[0.1, 0.1]))

    def align(self, folder, pairs, out, settings, seed, options, track=None):
        s = settings
        return self.learn(
            folder,
            out,
            options.adapter and fingerprint(folder, options.adapter),
            pairs[["prompt", "chosen", "rejected"]].values.tolist(),
            s.train,
            s.rate,
            s.loss,
            s.label_smoothing,
            s.batch,
            s.epochs,
            s.warmup,
            s.schedule,
            s.beta,
            s.lora_r,
            s.max_length,
            seed,
            options.chat,
        )

    def distill(self, folder, examples, arm, out, settings, seed, options, track=None):
        s = settings
        rows = examples[examples.arm == arm][["prompt", "completion"]].values.tolist()
        return self.learn(
            folder,
            out,
            rows,
            s.lr,
            s.batch,
            s.epochs,
            s.warmup,
            s.schedule,
            s.max_length,
            seed,
            options.chat,
        ).assign(arm=arm)

    def sft(self, folder, examples, out, s, seed, saves=1, options=None, track=None):
        for i in range(1, saves):
            write_model(folder, f"{out}-{i}", fingerprint(folder), examples, i)
        return self.learn(
            folder, out, examples, s.lr, s.batch, s.epochs, s.warmup, s.schedule, s.max_length, seed
        )

    def recipe(self, settings):
        changes = SMALLER | settings
        for key, value in changes.items():
            if key.endswith("model"):
                changes[key] = str(self.models[value])
            if key.endswith(("transfer.students", "respondents")):
                changes[key] = [str(self.models[name]) for name in value]
        return load_recipe("nano", **changes)

    def run(self, settings, source=None):
        "A run of these settings; the stages that generated in it and the models it trained."
        self.learnt.clear()
        out = self.folder / f"run-{len(list(self.folder.iterdir()))}"
        done = run(self.recipe(settings), out, source)
        generated = {k for k, v in done.stages.items() if v["counts"].get("prompts")}
        return done, generated | set(self.learnt)

    def first(self, settings):
        "The run that is changed."
        if (key := str(settings)) not in self.firsts:
            self.firsts[key] = self.run(settings)[0]
        return self.firsts[key]


def tables(run):
    "The tables of a run and of its further rounds, byte for byte."
    files = [*run.folder.glob("*.parquet"), *run.folder.glob("round-*/*.parquet")]
    return {str(f.relative_to(run.folder)): f.read_bytes() for f in files}


def entries(run):
    return {
        (table, *row)
        for table in ("completions", "scores")
        for row in run.journal.db.execute(f"SELECT * FROM {table}")
    }
