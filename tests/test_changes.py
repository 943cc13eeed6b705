"""One setting is changed, and the run made anew `--from` the first: only what depends on the setting is generated and trained again.

Stages, tables, journal and what is known about trained models are the real ones. In place of the models stand scripts that answer by the model's
fingerprint, and in place of training a file whose fingerprint depends on all that went into it; `test_run` has the same with real training.
With ARTE_SLOW=1 each run is also made from nothing, and the tables must be the same."""
import json, os, shutil
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from pathlib import Path
from types import UnionType
from typing import get_args

import pandas as pd
import pytest

import arte.core.nano as nano
import arte.run.stages as stages
from arte.core.engine import FunctionEngine
from arte.core.models import fingerprint, whole_folder
from arte.core.nano import TECHNIQUES, make_items, solve, write_rationale
from arte.core.recipe import Recipe, load_recipe
from arte.core.rundir import RunDir
from arte.core.tasks import get_task
from arte.run.pipeline import run
from scripted import chance
from test_run import SMALL, TASKS, tiny_model  # noqa: F401  (a fixture)

ALL_TASKS = [*TASKS, "sports_understanding"]
SMALLER = SMALL | {"tasks": TASKS[:1], "teacher.model": "teacher", "student.model": "student", "data.n_seed": 4, "data.n_val": 8, "data.n_test": 8, "elicit.questions": 6,
                   "elicit.techniques": 3, "irt.k": 5, "prefer.agreement_questions": 1, "align.held_out": 1, "distill.arms": ["original", "arte"]}

# What a change sets off: stages that generate, and models that are trained
STUDENTS = "student-original student-arte eval"
ALIGNED = "aligned heldout tailor student-arte eval"
SCORES = f"prefer student-original {ALIGNED}"
DRAFTS = f"elicit {SCORES}"
ALL = f"irt {DRAFTS}"
SCHOOL = {f"teacher.school.{k}": v for k, v in dict(rationales=4, questions=2, checkpoints=2, vocabulary=300).items()}
UNSEEN = {"unseen.tasks": ["sports_understanding"], "unseen.examples": 4}
SOME_UNSEEN = "unseen student-sports_understanding-original student-sports_understanding-arte"
NEEDS = {"teacher.school.": SCHOOL, "unseen.examples": UNSEEN}   # settings without which a field means nothing

# Fields without a say in what comes out: which engine and how many processes are the machine's business, and NUTS's draws are irt.method = nuts' own
INERT = {"name": "another", "trust_remote_code": True, "accelerate": "fsdp-8", "irt.draws": 500, "irt.tune": 500, "irt.chains": 2,
         "engine.kind": "server", "engine.dtype": "float32", "engine.url": "http://localhost:8000/v1", "engine.model": "student", "engine.concurrency": 2, "engine.timeout": 10., "engine.retries": 1}

# field: (another value, the new work, further work if that comes to other scores)
CHANGES = {
    "tasks": (TASKS, ALL),
    "teacher.model": ("other", DRAFTS),
    "teacher.school": (dict(rationales=4, questions=2, checkpoints=2, vocabulary=300), f"teacher {ALL}"),
    "teacher.school.rationales": (5, f"teacher {ALL}"),
    "teacher.school.questions": (3, f"teacher {ALL}"),
    "teacher.school.lr": (1e-3, f"teacher {ALL}"),
    "teacher.school.epochs": (2, f"teacher {ALL}"),
    "teacher.school.batch": (4, f"teacher {ALL}"),
    "teacher.school.max_length": (500, f"teacher {ALL}"),
    "teacher.school.vocabulary": (320, f"teacher {ALL}"),
    "teacher.school.checkpoints": (3, "teacher irt", SCORES),
    "teacher.school.seed": (1, f"teacher {ALL}"),
    "student.model": ("other", f"irt {SCORES}"),
    "seed": (1, ALL),
    "rounds": (2, "rounds aligned-2 heldout tailor student-arte eval"),
    "chat": (True, ALL),
    "data.items": ("bbh", ALL),
    "data.test": ("bbh", "eval"),
    "data.n_seed": (5, ALL),
    "data.n_val": (9, "irt prefer", SCORES),
    "data.n_test": (9, "eval"),
    "elicit.questions": (7, DRAFTS),
    "elicit.techniques": (4, DRAFTS),
    "elicit.prompts": (2, DRAFTS),
    "elicit.budget": (1, "student-original", SCORES),
    "elicit.temperature": (.5, DRAFTS),
    "elicit.question_tokens": (300, "elicit tailor"),
    "elicit.rationale_tokens": (150, "elicit heldout tailor"),
    "elicit.max_rouge": (.6, DRAFTS),
    "elicit.cot": (2, DRAFTS),
    "irt.method": ("mle", "", SCORES),
    "irt.k": (6, "prefer heldout", SCORES),
    "irt.shots": ([0, 2], "irt", SCORES),
    "irt.respondents": (["other"], "irt", SCORES),
    "prefer.max_tokens": (90, "irt prefer heldout"),
    "prefer.agreement_questions": (2, "prefer"),
    "prefer.signal": ("likelihood", SCORES),
    "pairs.questions": ("extremes", ALIGNED),
    "pairs.question_pairs": (0, ALIGNED),
    "pairs.min_margin": (.4, ALIGNED),
    "align.lr": (1e-3, ALIGNED),
    "align.batch": (2, ALIGNED),
    "align.epochs": (3, ALIGNED),
    "align.warmup": (.2, ALIGNED),
    "align.schedule": ("linear", ALIGNED),
    "align.beta": (.2, ALIGNED),
    "align.lora_r": (8, ALIGNED),
    "align.max_length": (500, ALIGNED),
    "align.held_out": (2, "heldout"),
    "tailor.question_temperature": (.5, "tailor student-arte eval"),
    "tailor.budget": (4, STUDENTS),                 # fewer questions; every arm is cut to the smallest
    "tailor.drop_contradictions": (True, STUDENTS),
    "tailor.drop_overlaps": (True, ""),             # there are none
    "distill.arms": (["original", "random", "arte"], "student-random eval"),
    "distill.lr": (1e-3, STUDENTS),
    "distill.epochs": (3, STUDENTS),
    "distill.batch": (2, STUDENTS),
    "distill.warmup": (.2, STUDENTS),
    "distill.schedule": ("cosine", STUDENTS),
    "distill.max_length": (500, STUDENTS),
    "eval.shots": ([0, 1], "eval"),
    "eval.max_tokens": (150, "eval"),
    "eval.benchmarks": (["gsm8k"], "benchmarks"),
    "unseen.tasks": (["sports_understanding"], SOME_UNSEEN),
    "unseen.examples": (5, SOME_UNSEEN),
    "transfer.students": (["other"], "transfer other-1-original other-1-arte"),
}


def setting_names(cls=Recipe, above=""):
    "Dotted names of every field; a section that may be absent is one too."
    for f in fields(cls):
        section = next((o for o in (f.type, *get_args(f.type)) if is_dataclass(o)), None)
        if section is None or isinstance(f.type, UnionType): yield above + f.name
        if section: yield from setting_names(section, f"{above}{f.name}.")


def write_model(like, out, *made_of):
    "A model folder with the config and the tokenizer of another one, and weights that say what it was made of."
    with whole_folder(out) as tmp:
        shutil.copytree(like, tmp, dirs_exist_ok=True)
        (tmp/"model.safetensors").write_bytes(blake2b(repr(made_of).encode()).digest())


def teach(name, prompt, sampling, draw):
    "A teacher: its own questions, its own manner of naive rationales, now and then a wrong answer in one."
    task = next(t for t in map(get_task, ALL_TASKS) if t.title in prompt or t.description in prompt or any(prompt.startswith(o.prompt) for o in t.techniques))
    if "example questions" in prompt:
        items = make_items(task.name, 5 if "5 more" in prompt else 1, int(chance(name, prompt, sampling.temperature, sampling.seed, draw) * 2**30))
        return "\n".join(f"<question_{x}><input>{i.question}</input><target>{i.answer}</target></question_{x}>" for x, i in enumerate(items, 4))
    question = prompt.rsplit("Question: ", 1)[1].split("\nAnswer:")[0]
    named = next((t.name for t in task.techniques if prompt.startswith(t.prompt)), None)
    text, gold = write_rationale(question, task.name, named or list(TECHNIQUES)[int(chance(name, question) * 4)]), solve(task.name, question)
    return " " + (text if named or chance("slip", name, question) < .7 else text.replace(f"<ans>{gold}</ans>", f"<ans>{'False' if gold == 'True' else 'True'}</ans>"))


def answer(name, prompt, sampling, draw):
    "A student: right half of the time."
    task = next((t for t in map(get_task, ALL_TASKS) if t.description in prompt), None)
    if task is None: return " no idea"
    gold = solve(task.name, prompt.rsplit("Question: ", 1)[1].split("\nAnswer:")[0])
    return f" So the answer is <ans>{gold if chance(name, prompt) < .5 else 'none'}</ans>"


class World:
    "Runs on scripts, and which models were trained in them."
    def __init__(self, patch, models, folder):
        self.models, self.folder, self.learnt, self.firsts = models, folder, [], {}
        self.write_data(patch)
        patch.setenv("ARTE_CACHE", str(folder/"cache"))
        patch.setattr(RunDir, "_open", lambda run, role, folder: self.open(role, fingerprint(folder)))
        for place, name in ((stages, "align"), (stages, "distill"), (nano, "sft")): patch.setattr(place, name, getattr(self, name))
        patch.setattr(nano, "trim_vocabulary", lambda base, out, n: write_model(base, out, fingerprint(base), n))
        for slow in ("os.fsync", "arte.core.rundir.environment", "arte.run.stages.save_fit"): patch.setattr(slow, lambda *a: {})

    def write_data(self, patch):
        "BBH and a benchmark in folders, of our own items."
        for task in TASKS: self.write("bbh", f"{task}.json", json.dumps(dict(examples=[dict(input=i.question, target=i.answer) for i in make_items(task, 30, 7)])))
        pens = [dict(question=f"Ann has {i} pens and gets {i} more. How many has she?", answer=f"{i} + {i} = {2*i}.\n#### {2*i}") for i in range(1, 21)]
        self.write("benchmarks/gsm8k", "test.jsonl", "\n".join(map(json.dumps, pens)))
        patch.setenv("ARTE_DATA", str(self.folder/"bbh"))
        patch.setenv("ARTE_BENCHMARKS", str(self.folder/"benchmarks"))

    def write(self, folder, name, text):
        (self.folder/folder).mkdir(parents=True, exist_ok=True)
        (self.folder/folder/name).write_text(text)

    def open(self, role, name):
        script = teach if role == "teacher" or role.startswith("aligned") else answer
        if role == "teacher": both = lambda p, *how: (answer if "Remember you should include" in p else teach)(name, p, *how)   # a schooled teacher is a respondent too
        else: both = lambda p, *how: script(name, p, *how)
        return FunctionEngine(both, name, lambda p, c: [-chance(name, p, c)], lambda p: [(" First", .6), (" So", .4)])

    def learn(self, like, out, *made_of):
        self.learnt.append(Path(out).name)
        write_model(like, out, fingerprint(like), *made_of)
        return pd.DataFrame(dict(step=[1, 2], loss=[1., .5], lr=[.1, .1]))

    def align(self, folder, pairs, adapter, out, s, seed, chat, trust_remote_code):
        return self.learn(folder, out, pairs[["prompt", "chosen", "rejected"]].values.tolist(), s.lr, s.batch, s.epochs, s.warmup, s.schedule, s.beta, s.lora_r, s.max_length, seed, chat)

    def distill(self, folder, examples, arm, out, s, seed, chat, trust_remote_code):
        rows = examples[examples.arm == arm][["prompt", "completion"]].values.tolist()
        return self.learn(folder, out, rows, s.lr, s.batch, s.epochs, s.warmup, s.schedule, s.max_length, seed, chat).assign(arm=arm)

    def sft(self, folder, examples, out, s, seed, saves, train_embeddings):
        for i in range(1, saves): write_model(folder, f"{out}-{i}", fingerprint(folder), examples, i)
        return self.learn(folder, out, examples, s.lr, s.batch, s.epochs, s.warmup, s.schedule, s.max_length, seed)

    def recipe(self, settings):
        place = lambda v: [*map(place, v)] if isinstance(v, list) else str(self.models[v])
        return load_recipe("nano", **{k: place(v) if k.endswith(("model", "transfer.students", "respondents")) else v for k, v in (SMALLER | settings).items()})

    def run(self, settings, source=None):
        "A run of these settings, and the work it did: stages that generated, models that were trained."
        self.learnt.clear()
        done = run(self.recipe(settings), self.folder/f"run-{len(list(self.folder.iterdir()))}", source)
        return done, {k for k, v in done.stages.items() if v["counts"].get("prompts")} | set(self.learnt)

    def first(self, settings):
        "The run that is changed."
        if (key := str(settings)) not in self.firsts: self.firsts[key] = self.run(settings)[0]
        return self.firsts[key]


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):  # noqa: F811
    "Three models of different weights, with a chat template, and runs of them."
    folder, names = tmp_path_factory.mktemp("world"), ("teacher", "student", "other")
    for name in names:
        write_model(tiny_model, folder/name, name)
        (folder/name/"chat_template.jinja").write_text("{{ messages[0]['content'] }} (end of turn)")
    with pytest.MonkeyPatch.context() as patch: yield World(patch, {n: folder/n for n in names}, folder)


def tables(run): return {f.name: f.read_bytes() for f in run.folder.glob("*.parquet")}


def test_every_field_is_here(): assert set(CHANGES) | set(INERT) == set(setting_names()) and not set(CHANGES) & set(INERT)


@pytest.mark.parametrize("field", CHANGES)
def test_only_what_depends_on_it_is_done_again(world, field):
    value, must, may = (*CHANGES[field], "")[:3]
    settings = next((v for k, v in NEEDS.items() if field.startswith(k)), {})
    changed, done = world.run(settings | {field: value}, world.first(settings).folder)
    assert set(must.split()) <= done <= set(f"{must} {may}".split())
    if os.environ.get("ARTE_SLOW"): assert tables(changed) == tables(world.run(settings | {field: value})[0])


def test_nothing_depends_on_these(world):
    changed, done = world.run(INERT, world.first({}).folder)
    assert done == set() and tables(changed) == tables(world.first({}))


def test_schooling_does_not_depend_on_distillation(world, monkeypatch):
    first = world.first(SCHOOL)
    monkeypatch.setenv("ARTE_CACHE", str(world.folder/"another cache"))
    changed, done = world.run(SCHOOL | {"distill.schedule": "cosine", "distill.warmup": .2})
    assert "teacher" in done and changed.models["teacher"]["fingerprint"] == first.models["teacher"]["fingerprint"]
