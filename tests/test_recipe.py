"""Recipes: any valid one survives a round trip, any broken one is refused by its field's name."""

import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

import pytest
from hypothesis import given, settings, strategies as st

from arte.core.settings.recipe import Recipe
from arte.data.generated.tasks import GENERATED_TASKS
from arte.core.fields import NUMBERS, Name, RecipeError, from_dict
from arte.core.settings.training import Align, Distill, Eval
from arte.core.settings.method import (
    Data,
    Elicit,
    Irt,
    Pairs,
    Prefer,
    Respondent,
    School,
    Student,
    StudentSchool,
    Teacher,
)
from arte.core.basics import derive_seed
from arte.core.recipes import dump_recipe, first_difference, load_recipe, parse_yaml, preset_names
from arte.run.parts import PARTS
from support.tiny import tiny_recipe


def checked(*args, **changes):
    "A recipe with its names checked, as when a run begins."
    recipe = load_recipe(*args, **changes)
    PARTS.check(recipe)
    return recipe


def back(recipe):
    return from_dict(Recipe, parse_yaml(dump_recipe(recipe), "recipe"))


words = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20
).filter(lambda s: s.strip() and s.isprintable())
counts, shares = st.integers(1, 10_000), st.floats(0, 1)
rates = st.floats(0, 1, exclude_min=True)
respondents = st.builds(Respondent, words, st.sampled_from(["auto", "on", "off"]))
shots = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def recipes(draw):
    questions, n_val = draw(st.integers(2, 500)), draw(st.integers(1, 300))
    tokens = draw(st.integers(1, 1000))
    return Recipe(
        name=draw(words),
        tasks=draw(st.lists(st.sampled_from(GENERATED_TASKS), min_size=1, unique=True)),
        seed=draw(st.integers(0, 2**40)),
        teacher=Teacher(
            draw(words), draw(st.none() | st.builds(School, rationales=counts, lr=rates)), "off"
        ),
        student=Student(
            draw(words),
            draw(st.none() | st.builds(StudentSchool, rationales=counts, lr=rates)),
            draw(st.sampled_from(["auto", "on", "off"])),
        ),
        data=Data(
            draw(st.sampled_from(["bbh", "generated"])),
            "auto",
            draw(st.integers(3, 9)),
            n_val,
            draw(st.integers(0, 999)),
        ),
        elicit=Elicit(
            questions,
            draw(st.integers(2, 4)),
            rationale_tokens=tokens,
            temperature=draw(st.floats(0, 3)),
            max_rouge=draw(shares),
        ),
        irt=Irt(
            draw(st.sampled_from(["nuts", "map", "mle"])),
            draw(st.integers(1, n_val)),
            draw(shots),
            tuple(draw(st.lists(words | respondents, max_size=3, unique_by=str))),
        ),
        prefer=Prefer(draw(counts), draw(st.integers(0, questions))),
        pairs=Pairs("extremes", draw(st.integers(0, questions // 2)), draw(shares)),
        align=Align(
            train=draw(st.sampled_from(["lora", "full"])),
            lr=draw(st.none() | rates),
            batch=draw(counts),
            label_smoothing=draw(st.just("auto") | st.floats(0, 0.4)),
            beta=draw(st.floats(1e-9, 1e9)),
            held_out=draw(st.integers(0, 99)),
            max_length=tokens + draw(counts),
        ),
        distill=Distill(
            tuple(
                draw(
                    st.lists(
                        st.sampled_from(["original", "rationale", "question", "arte"]),
                        min_size=1,
                        unique=True,
                    )
                )
            ),
            max_length=tokens + draw(counts),
        ),
        eval=Eval(draw(shots)),
    )


@settings(max_examples=200, deadline=None)
@given(recipes())
def test_round_trip(recipe):
    assert back(recipe) == recipe
    assert first_difference(recipe, back(recipe)) is None


def leaves(cls, prefix=""):
    for f in fields(cls):
        if is_dataclass(f.type):
            yield from leaves(f.type, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", f.type


def wrong_values(kind):
    if kind in NUMBERS:
        return [True, "many", None, [1], -1e9, float("nan"), "1e-7x"] + (
            [2.5] if NUMBERS[kind][0] is int else []
        )
    if get_origin(kind) is Union and NoneType not in get_args(kind):  # a word or a number
        return ["nothing like it", True, None, 0.5]
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return [v for v in wrong_values(get_args(kind)[0]) if v is not None]
    if kind in (str, Name):
        return [3, "", None, "two\nlines", False]
    if kind is bool:
        return ["yes", 1, None]
    if get_origin(kind) is Literal:
        return ["nothing like it", 3, None, []]
    if get_origin(kind) is tuple:
        return ["text", 3, None, {"a": 1}, [[]], [None]]
    return [3, "text", []]


@pytest.mark.parametrize("field, kind", list(leaves(Recipe)))
def test_wrong_type_names_its_field(field, kind):
    for value in wrong_values(kind):
        with pytest.raises(RecipeError) as e:
            load_recipe("nano", **{field: value})
        assert str(e.value).startswith(field), (value, str(e.value))
        assert repr(value) in str(e.value) or tuple in (
            get_origin(kind),
            *map(get_origin, get_args(kind)),
        )  # which names the element


@pytest.mark.parametrize(
    "change, message",
    [
        ("teacher.reminder=true", "teacher.reminder: got true, but teacher.school teaches"),
        ("irt.k=25", "irt.k: got 25, but there are only data.n_val = 24"),
        ("elicit.techniques=1", "elicit.techniques: got 1, expected 2 to 4"),
        ("elicit.techniques=5", "elicit.techniques: got 5, expected 2 to 4"),
        ("elicit.temperature=-0.1", "elicit.temperature: got -0.1"),
        ("tailor.question_temperature=-1", "tailor.question_temperature: got -1"),
        ("data.n_seed=2", "data.n_seed: got 2"),
        ("elicit.prompts=2", "elicit.prompts: got 2"),
        ("tasks=[]", "tasks: got an empty list"),
        ("tasks=[navigate, navigate]", "tasks: 'navigate' is there twice"),
        ("tasks=[navigate]", "tasks: ['navigate'] cannot be generated"),
        ("distill.arms=[original, art]", "Did you mean arte?"),
        ("distill.arms=[]", "distill.arms: got an empty list"),
        ("distill.arms=[WizardLM]", "distill.arms: got WizardLM: instruction sets only"),
        ("prefer.signal=accurate", "Did you mean accuracy?"),
        ("data.items=bigbank", "Did you mean bigbench?"),
        ("data.test=bigbench", "data.test: got 'bigbench', expected one of auto, bbh, generated"),
        ("engine.kind=vlm", "Did you mean vllm?"),
        ("eval.benchmarks=[gsm]", "Did you mean gsm8k?"),
        (
            "unseen.tasks=[navigat] & teacher.school=null & student.school=null & data.items=bbh "
            "& data.test=bbh & controls.examples=0",
            "navigate",
        ),
        ("align.max_length=160", "align.max_length: got 160"),
        ("distill.max_length=160", "distill.max_length: got 160"),
        ("irt.method=nuts & irt.chains=1", "irt.chains: got 1"),
        ("irt.shots=[4]", "irt.shots[0]: got 4"),
        ("eval.shots=3", "Write for example: [3]"),
        ("prefer.agreement_questions=45", "prefer.agreement_questions: got 45"),
        ("align.warm=0.1", "Did you mean align.warmup?"),
        ("beta=0.1", "Did you mean align.beta?"),
        ("tailr.budget=1", "Did you mean tailor?"),
        ("teacher.modle=x", "Did you mean teacher.model?"),
        ("teacher.school.epoch=1", "Did you mean teacher.school.epochs?"),
        ("teacher=x", "teacher: got 'x', expected a section"),
        ("align", "expected field=value"),
        ("=3", "expected field=value"),
        ("seed=[", "seed: this is not YAML"),
        ("seed=2020-99-99", "seed: this is not YAML"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(RecipeError) as e:
        checked("nano", *change.split(" & "))
    assert message in str(e.value)


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(RecipeError, match=r"tasks\[1\].*navigate"):
        checked("small", "tasks=[snarks, navigat]")


def test_generated_test_items_need_a_number():
    with pytest.raises(RecipeError, match="data.n_test"):
        PARTS.check(tiny_recipe(data=Data("generated", "generated", n_val=6)))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected sections"),
        ("- a", "expected sections"),
        ("name: x\nname: y", "name: is there twice"),
        ("align: {lr: 1, lr: 2}", "lr: is there twice"),
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not YAML"),
        ("name: x\ntasks: [navigate]\nstudent: {model: a}", "teacher: is missing"),
        (
            "name: x\ntasks: [navigate]\nstudent: {model: a}\nteacher: {}",
            "teacher.model: is missing",
        ),
        ("? [a, b]\n: c", ""),
        ("1: 2", "1: there is no such field"),
    ],
)
def test_broken_files(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as e:
        load_recipe(tmp_path / "r.yaml")
    assert message in str(e.value)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from([f.name for f in fields(Recipe)]) | st.text(max_size=5),
                x,
                max_size=5,
            )
        ),
    )
)
def test_any_value_is_a_recipe_or_refused(value):
    try:
        from_dict(Recipe, value)
    except RecipeError:
        pass


def test_numbers_as_people_write_them(tmp_path):
    for text in ("1e-7", "1E-7", "1.0e-7", "0.0000001", ".1e-6"):
        assert load_recipe("nano", f"align.lr={text}").align.lr == 1e-7
    assert load_recipe("nano", "align.beta=1").align.beta == 1.0


def test_presets():
    tables = [f"table{i}{scale}" for i in range(2, 7) for scale in ("", "-nano")]
    assert preset_names() == sorted(["nano", "paper", "small", "t4", *tables])
    presets = {name: load_recipe(name) for name in preset_names()}
    assert all(back(r) == r and r.name == name for name, r in presets.items())
    nano, paper, small = (presets[name] for name in ("nano", "paper", "small"))
    assert (len(paper.tasks), len(small.tasks), len(nano.tasks)) == (27, 8, 2)
    plain = Recipe(paper.name, paper.tasks, paper.teacher, paper.student)
    assert (
        replace(paper, irt=plain.irt, engine=plain.engine, accelerate=plain.accelerate) == plain
    ), "the paper preset changes a default"
    from arte.core.tasks import get_task

    assert [
        sum(get_task(t).category == c for t in small.tasks)
        for c in ("logic", "commonsense", "math", "knowledge")
    ] == [2, 2, 2, 2]


def test_bases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("base: nano\nname: mine\nalign: {lr: 1e-6}\n")
    nano, mine = load_recipe("nano"), load_recipe("mine.yaml", "seed=3")
    assert mine == replace(nano, name="mine", seed=3, align=replace(nano.align, lr=1e-6))
    (tmp_path / "mine.yaml").write_text("base: yours.yaml\nname: mine\n")
    (tmp_path / "yours.yaml").write_text("base: mine.yaml\nname: yours\n")
    with pytest.raises(
        RecipeError, match="base: mine.yaml → yours.yaml → mine.yaml goes in a circle"
    ):
        load_recipe("mine.yaml")
    with pytest.raises(RecipeError, match="goes in a circle"):
        load_recipe(Path("mine.yaml"))
    (tmp_path / "mine.yaml").write_text("base: nanno\nname: mine\n")
    with pytest.raises(RecipeError, match="Did you mean nano?"):
        load_recipe("mine.yaml")


def test_first_difference_finds_each_field():
    a = load_recipe("nano")
    assert (
        first_difference(a, load_recipe("nano", "name=other"))
        == "name: nano in the folder, other in the recipe"
    )
    assert first_difference(a, load_recipe("nano", "teacher.school.lr=0.5")).startswith(
        f"teacher.school.lr: {a.teacher.school.lr} in the folder"
    )
    assert (
        first_difference(a, load_recipe("nano", "eval.shots=[0, 3]"))
        == "eval.shots: [0] in the folder, [0, 3] in the recipe"
    )


def test_seeds_spread():
    seeds = {derive_seed(s, "place", i) for s in range(100) for i in range(100)}
    assert len(seeds) > 9_990 and max(seeds) < 2**31 and min(seeds) >= 0


def test_import_is_light():
    code = """import sys, arte.core.settings.recipe, arte.run.cli
print([m for m in ('numpy', 'pandas', 'torch', 'transformers') if m in sys.modules])"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )
