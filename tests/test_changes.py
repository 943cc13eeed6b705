"""One setting is changed, and the run made anew `--from` the first: only what depends on the
setting is generated and trained again.

On scripts (see `world`); `test_run` has the same with real training. With ARTE_SLOW=1 each run is
also made from nothing, and the tables must be the same."""

import os
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import get_args, get_origin

import pytest

from arte.core.settings.recipe import Recipe
from arte.irt.choose import balanced_order
from support.tiny import TASKS
from support.world import SCHOOL, UNSEEN, World, tables

# What a change sets off: stages that generate, and models that are trained
STUDENTS = "student-original student-arte eval"
UNSCORED = "aligned heldout tailor student-arte eval"  # no pair is held out: no margins
ALIGNED = f"align {UNSCORED}"
SCORES = f"prefer student-original {ALIGNED}"
DRAFTS = f"elicit {SCORES}"
ALL = f"irt {DRAFTS}"
SOME_UNSEEN = "unseen student-sports_understanding-original student-sports_understanding-arte"
NEEDS = {
    "teacher.school.": SCHOOL,
    "student.school.": {"student.school.rationales": 4},
    "unseen.examples": UNSEEN,
    "prefer.error": {"prefer.rule": "elimination"},
    "elicit.prompts": {"align.held_out_pairs": 0.0},
    "pairs.questions": {"align.held_out_pairs": 0.0},
    "controls.": {"controls.margin": 0},
    "data.test": {"eval.max_tokens": 500},
    "align.prompt.": {"align.method": "prompt", "align.prompt.questions": 2},
    "transfer.arms": {"transfer.students": ["other"], "transfer.arms": ["arte"]},
}  # settings without which a field means nothing, or too little room

# Fields on which no result depends: which engine and how many processes are the machine's business,
# and NUTS's draws matter only to irt.method = nuts
INERT = {
    "name": "another",
    "trust_remote_code": True,
    "report_to": [],
    "own": [dict(name="spare", hub="somebody/questions")],  # in no list of tasks
    "accelerate": "fsdp-8",
    "controls.margin": 0.5,
    "elicit.min_finished": 0.01,
    "elicit.min_readable": 0.01,
    "elicit.min_right": 0.01,
    "prefer.need_signal": False,
    "irt.draws": 500,
    "irt.tune": 500,
    "irt.chains": 2,
    "engine.kind": "server",
    "engine.dtype": "float32",
    "engine.url": "http://localhost:8000/v1",
    "engine.model": "student",
    "engine.price": {"input": 1.0, "output": 2.0},
    "engine.price.input": 2.0,
    "engine.price.output": 3.0,
    "engine.concurrency": 2,
    "engine.timeout": 10.0,
    "engine.retries": 1,
}
REPLICAS = {
    "engine.kind": "ray",
    "engine.repeatable": True,
    "engine.replicas": 2,
    "engine.per_replica.gpus": 4,
    "engine.per_replica.tensor_parallel": 2,
    "engine.per_replica.pipeline_parallel": 2,
}

# field: (another value, the new work, further work if that comes to other scores)
CHANGES = {
    "tasks": (TASKS, ALL),
    "teacher.model": ("other", DRAFTS),
    "teacher.school": (
        dict(rationales=4, questions=2, checkpoints=2, vocabulary=300),
        f"teacher {ALL}",
    ),
    "teacher.school.rationales": (5, f"teacher {ALL}"),
    "teacher.school.questions": (3, f"teacher {ALL}"),
    "teacher.school.lr": (1e-3, f"teacher {ALL}"),
    "teacher.school.epochs": (2, f"teacher {ALL}"),
    "teacher.school.batch": (4, f"teacher {ALL}"),
    "teacher.school.max_length": (500, f"teacher {ALL}"),
    "teacher.school.vocabulary": (320, f"teacher {ALL}"),
    "teacher.school.checkpoints": (3, "teacher irt", SCORES),
    "teacher.school.seed": (1, f"teacher {ALL}"),
    "student.school": (dict(rationales=4), f"student irt {SCORES}"),
    "student.school.rationales": (5, f"student irt {SCORES}"),
    "student.school.lr": (1e-3, f"student irt {SCORES}"),
    "student.school.epochs": (2, f"student irt {SCORES}"),
    "student.school.batch": (4, f"student irt {SCORES}"),
    "student.school.max_length": (500, f"student irt {SCORES}"),
    "student.school.seed": (1, f"student irt {SCORES}"),
    "student.model": ("other", f"irt {SCORES}"),
    "seed": (1, ALL),
    "rounds": (2, "rounds aligned-2 heldout tailor student-arte eval"),
    "teacher.chat": ("on", DRAFTS),
    "teacher.quantize": ("4bit", DRAFTS),
    "student.chat": ("on", f"irt {SCORES}"),
    "data.items": ("bbh", ALL),
    "data.test": ("bbh", "eval"),
    "data.n_seed": (5, ALL),
    "data.n_val": (9, "irt prefer", SCORES),
    "data.n_test": (9, "eval"),
    "controls.examples": (4, "control-gold control-shuffled controls"),
    "teacher.reminder": (True, "align heldout tailor", ALIGNED),
    "elicit.questions": (7, DRAFTS),
    "elicit.techniques": (4, DRAFTS),
    "elicit.prompts": (2, f"elicit prefer student-original {UNSCORED}"),
    "elicit.budget": (1, "student-original", SCORES),
    "elicit.temperature": (0.5, DRAFTS),
    "elicit.question_tokens": (300, "elicit tailor"),
    "elicit.rationale_tokens": (150, "elicit heldout tailor"),
    "elicit.max_rouge": (0.6, DRAFTS),
    "elicit.cot": (2, DRAFTS),
    "irt.method": ("mle", "", SCORES),
    # held-out questions are scored on two of the three items of before
    "irt.k": (6, "prefer", f"heldout {SCORES}"),
    "irt.choose": ("information", "", f"{SCORES} heldout"),
    "irt.balance": (False, "", f"{SCORES} heldout"),
    "irt.shots": ([0, 2], "irt", SCORES),
    "irt.respondents": (["other"], "irt", SCORES),
    "prefer.max_tokens": (90, "irt prefer heldout"),
    "prefer.agreement_questions": (2, "prefer"),
    "prefer.rule": ("elimination", "", SCORES),
    "prefer.error": (0.01, "", SCORES),
    "prefer.signal": ("likelihood", SCORES),
    "pairs.questions": ("extremes", UNSCORED),
    "pairs.question_pairs": (0, ALIGNED),
    "pairs.min_margin": (0.4, ALIGNED),
    "pairs.unfinished": ("drop", ""),  # all are whole
    "pairs.shuffled": (True, ALIGNED),
    "align.method": ("prompt", "align", "heldout tailor student-arte eval"),
    "align.prompt.rounds": (3, "", "align heldout tailor student-arte eval"),
    "align.prompt.questions": (3, "align", "heldout tailor student-arte eval"),
    "align.prompt.examples": (0, "align", "heldout tailor student-arte eval"),
    "align.train": ("full", ALIGNED),
    "align.lr": (1e-3, ALIGNED),
    "align.loss": ("ipo", ALIGNED),
    "align.label_smoothing": (0.0, ""),
    "align.held_out_pairs": (0.5, ALIGNED),
    "align.batch": (2, ALIGNED),
    "align.epochs": (3, ALIGNED),
    "align.warmup": (0.2, ALIGNED),
    "align.schedule": ("linear", ALIGNED),
    "align.beta": (0.2, ALIGNED),
    "align.lora_r": (8, ALIGNED),
    "align.max_length": (500, ALIGNED),
    "align.held_out": (2, "heldout"),
    "tailor.question_temperature": (0.5, "tailor student-arte eval"),
    "tailor.budget": (4, STUDENTS),  # fewer questions; every arm is cut to the smallest
    "tailor.question_rationales": ("best", ""),  # the run has no arm Question Only
    "tailor.drop_contradictions": (True, STUDENTS),
    "tailor.drop_overlaps": (True, ""),  # there are none
    "tailor.answered_only": (True, ""),  # all have an answer
    "distill.arms": (["original", "random", "arte"], "student-random eval"),
    "distill.lr": (1e-3, STUDENTS),
    "distill.epochs": (3, STUDENTS),
    "distill.batch": (2, STUDENTS),
    "distill.warmup": (0.2, STUDENTS),
    "distill.schedule": ("cosine", STUDENTS),
    "distill.max_length": (500, STUDENTS),
    "distill.unfinished": ("drop", ""),  # all are whole
    "distill.seed": (7, STUDENTS),
    "eval.shots": ([0, 1], "eval"),
    "eval.max_tokens": (150, "eval"),
    "eval.forced": (False, ""),  # nothing is asked anew
    "eval.benchmarks": (["gsm8k"], "benchmarks"),
    "unseen.tasks": (["sports_understanding"], SOME_UNSEEN),
    "unseen.examples": (5, SOME_UNSEEN),
    "transfer.students": (["other"], "transfer other-1-original other-1-arte"),
    "transfer.arms": (["original", "arte"], "transfer other-1-original"),
}


def setting_names(cls=Recipe, above=""):
    "Dotted names of every field; a section that may be absent is one too."
    for f in fields(cls):
        kinds = (f.type, *get_args(f.type)) if get_origin(f.type) is not tuple else ()
        section = next((o for o in kinds if is_dataclass(o)), None)
        if section is None or isinstance(f.type, UnionType):
            yield above + f.name
        if section:
            yield from setting_names(section, f"{above}{f.name}.")


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield World(patch, tiny_model, tmp_path_factory.mktemp("world"))


def test_every_field_is_here():
    assert set(CHANGES) | {*INERT, *REPLICAS} == set(setting_names()) and not set(CHANGES) & {
        *INERT,
        *REPLICAS,
    }


@pytest.mark.parametrize("field", CHANGES)
def test_only_what_depends_on_it_is_done_again(world, field):
    value, must, may = (*CHANGES[field], "")[:3]
    settings = next((v for k, v in NEEDS.items() if field.startswith(k)), {})
    changed, done = world.run(settings | {field: value}, world.first(settings).folder)
    assert set(must.split()) <= done <= set(f"{must} {may}".split())
    if os.environ.get("ARTE_SLOW"):
        assert tables(changed) == tables(world.run(settings | {field: value})[0])


@pytest.mark.parametrize("settings", [INERT, REPLICAS])
def test_nothing_depends_on_these(world, settings):
    changed, done = world.run(settings, world.first({}).folder)
    assert done == set() and tables(changed) == tables(world.first({}))


def test_balanced_preference_sets(world):
    "The same fits, other choices: as many items, their gold answers in turn."
    # three items that are all answered True, as it happens
    plain = world.first({"irt.k": 3, "irt.balance": False})
    balanced = world.run({"irt.k": 3, "irt.balance": True}, plain.folder)[0]
    a, b, items = plain.table("prefset"), balanced.table("prefset"), plain.table("items")
    for task, rows in a.groupby("task"):
        order = balanced_order(items[items.item.isin(rows.item)], rows)
        assert set(b[b.chosen & (b.task == task)].item) == set(order.item[: rows.chosen.sum()])
    assert (
        a.drop(columns="chosen").equals(b.drop(columns="chosen")) and (a.chosen != b.chosen).any()
    )


@pytest.mark.parametrize("k, n, where", [(4, 4, "rest"), (6, 2, "rest"), (8, 8, "pref")])
def test_held_out_questions_are_scored_on_items_that_were_not_chosen(world, k, n, where):
    "Of eight validation items five were chosen; if all are, there are no others."
    run, done = world.run({"irt.k": k}, world.first({}).folder)
    heldout = run.table("heldout")
    assert set(heldout.n) == {n} and set(heldout["set"]) == {where}
    assert "heldout" in done or k == 6


def test_elimination_scores_every_draft(world):
    run = world.run({"prefer.rule": "elimination", "prefer.error": 0.4}, world.first({}).folder)[0]
    answers, scores = run.table("answers"), run.table("scores")
    assert set(answers["set"]) == {"val"} and not answers.duplicated(["draft", "item"]).any()
    r = scores[scores.level == "rationale"]
    assert (
        set(r.id) == set(run.table("drafts").draft)
        and r.n.sum() == len(answers) < len(r) * run.recipe.data.n_val
    )


def test_schooling_does_not_depend_on_distillation(world, monkeypatch):
    first = world.first(SCHOOL)
    monkeypatch.setenv("ARTE_CACHE", str(world.folder / "another cache"))
    changed, done = world.run(SCHOOL | {"distill.schedule": "cosine", "distill.warmup": 0.2})
    assert (
        "teacher" in done
        and changed.models["teacher"]["fingerprint"] == first.models["teacher"]["fingerprint"]
    )
