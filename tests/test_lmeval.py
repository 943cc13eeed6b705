"An export in lm-evaluation-harness itself, on SmolLM2: item by item what `arte.eval` finds."

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from arte.core.answers import STOP, grade
from arte.engines.transformers import TransformersEngine
from arte.engines.protocol import cut_at_stop
from arte.models.folders import resolve_model
from arte.models.load import ModelOptions
from arte.data.bbh import bbh_source
from arte.core.tasks import builtin_tasks
from arte.eval import evaluate
from arte.run.lmeval import (
    UNTIL,
    export_lm_eval,
    harness_command,
    process_results,
    read_test,
)
from arte.run.stage import tasks_of

HERE = Path(__file__).parent
PYTHON = (
    sys.executable if find_spec("lm_eval") else HERE.parent / ".venv" / "lmeval" / "bin" / "python"
)  # `make lmeval`
harness = pytest.mark.skipif(not Path(PYTHON).exists(), reason="lm-eval isn't here: make lmeval")
slow = pytest.mark.skipif(
    not os.environ.get("ARTE_SLOW"), reason="minutes of generation: ARTE_SLOW=1"
)
GENERATED = """base: nano
name: test
tasks: [boolean_expressions, sports_understanding]
data: {test: generated, n_val: 8, n_test: 4}
irt: {k: 4}
eval: {shots: [0, 3], max_tokens: 32}
"""
BBH = """base: paper
name: test
tasks: [TASKS]
data: {items: bbh, n_val: 4, n_test: 2}
irt: {k: 4}
eval: {max_tokens: 96}
"""
PIECES = ["<ans>", "</ans>", "\nQuestion:", "\nQ", "7", "8", " so ", "<ans>7</ans>", "."]
pieces = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(pieces)
@settings(max_examples=500, deadline=None)
def test_same_grade_with_the_harness_s_stops(text):
    "Our engines keep the stop string, the harness takes it away."
    ours = grade(cut_at_stop(text, STOP) or text, "7", "integer")
    left = text
    for stop in UNTIL:
        left = left.split(stop)[0]
    assert process_results(dict(answer="7", kind="integer", question=""), [left]) == dict(
        acc=float(ours.correct), unreadable=float(ours.parsed is None)
    )


@given(st.lists(st.sampled_from([*PIECES, "<think>", "</think>"]), max_size=12).map("".join))
@settings(max_examples=500, deadline=None)
def test_same_grade_of_thoughts_without_stops(text):
    "As the command for a chat template runs it: the grading finds where our engines had stopped."
    written = cut_at_stop(text, STOP) or text
    ours = grade(written, "7", "integer")
    found = process_results(dict(answer="7", kind="integer", question=""), [text])
    assert found == dict(acc=float(ours.correct), unreadable=float(ours.parsed is None))


def test_a_question_in_a_thought_ends_nothing(tmp_path):
    "The command for a template takes the harness's stop away, which would end the thought."
    text = "<think>\nQuestion: 3 + 4? <ans>8</ans></think>It is <ans>7</ans>"
    doc = dict(answer="7", kind="integer", question="")
    assert process_results(doc, [text])["acc"] == 1
    assert process_results(doc, [text.split(UNTIL[0])[0]])["unreadable"] == 1
    file = tmp_path / "recipe.yaml"
    file.write_text(GENERATED + "student: {chat: on}\n")
    said = shlex.split(harness_command(file, "tasks", "arte_bbh_0shot"))
    assert json.loads(said[said.index("--gen_kwargs") + 1]) == dict(until=[])
    assert said[said.index("--model_args") + 1].endswith(",enable_thinking=False")
    file.write_text(GENERATED + "student: {chat: off}\n")
    assert "--gen_kwargs" not in harness_command(file, "tasks", "arte_bbh_0shot")


def start_harness(tmp_path, recipe):
    "The export of a recipe, and the harness at work on it."
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    export_lm_eval(file, tmp_path / "tasks")
    (tmp_path / "tasks").rename(tmp_path / "moved")  # the folder works wherever it is
    offline = dict(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", PYTHONPATH=str(HERE.parent))
    return file, subprocess.Popen(
        [
            PYTHON,
            HERE / "support" / "harness.py",
            tmp_path / "moved",
            resolve_model("nano-student"),
            tmp_path / "out.json",
        ],
        env=os.environ | offline,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "log").open("w"),
    )


def ours(file):
    "What `evaluate` finds with the transformers engine in fp32; also the completions, by prompt."
    test = read_test(file)
    recipe, items, shown = test.recipe, test.items, test.examples
    engine, written = TransformersEngine(resolve_model("nano-student"), ModelOptions("float32")), {}
    generate = engine.generate

    def noted(prompts, sampling):
        done = generate(prompts, sampling)
        written.update({p: c[0] for p, c in zip(prompts, done)})
        return done

    engine.generate = noted
    return pd.concat(
        [
            evaluate(engine, "vanilla", k, items, shown, tasks_of(recipe), recipe.eval.max_tokens)
            for k in recipe.eval.shots
        ]
    ), written


def check_harness(tmp_path, recipe):
    """Check that prompts, each item's grade and the averages are the same.

    Return our results, how often the texts were the same, and how our answers ended.
    """
    file, process = start_harness(tmp_path, recipe)
    try:
        results, written = ours(file)
    except BaseException:
        process.kill()
        raise
    assert process.wait(3600) == 0, (tmp_path / "log").read_text()[-3000:]
    found = json.loads((tmp_path / "out.json").read_text())
    theirs = {(a["task"], a["item"]): a for a in found["answers"]}
    assert len(theirs) == len(results) and {a["prompt"] for a in found["answers"]} == set(written)
    for r in results.itertuples():
        a = theirs[f"arte_bbh_{r.shots}shot_{r.task}", r.item]
        theirs_and_ours = f"the harness has {a['text']!r}, we have {written[a['prompt']]}"
        graded = (bool(a["acc"]), bool(a["unreadable"]))
        where = f"{r.item} at {r.shots} shots"
        assert graded == (r.correct, pd.isna(r.parsed)), f"{where}: {theirs_and_ours}"
    for shots, g in results.groupby("shots"):
        assert found["results"][f"arte_bbh_{shots}shot"]["acc,none"] == pytest.approx(
            g.groupby("task").correct.mean().mean(), abs=1e-9
        )
    return (
        results,
        sum(
            a["text"].startswith(written[a["prompt"]].text.removesuffix(STOP[1]))
            for a in found["answers"]
        ),
        [c.finish for c in written.values()],
    )


@pytest.mark.long
@harness
def test_harness_agrees(tmp_path):
    results, _, _ = check_harness(tmp_path, GENERATED)
    assert results.correct.any() and results.parsed.notna().any() and results.parsed.isna().any(), (
        "an easy agreement: nothing was answered, or everything"
    )


@slow
@harness
@pytest.mark.parametrize("recipe", ["generated", "bbh"])
def test_harness_agrees_on_more(tmp_path, recipe):
    if recipe == "generated":
        text = GENERATED.replace("boolean_", "object_counting, date_understanding, boolean_")
        text = text.replace("n_test: 4", "n_test: 12").replace("tokens: 32", "tokens: 128")
    else:
        if not isinstance(bbh_source(), Path):
            pytest.skip("BBH's files are not here")
        text = BBH.replace("TASKS", ", ".join(builtin_tasks()))
    results, same, finish = check_harness(tmp_path, text)
    print(
        f"\n{recipe}: {len(results)} answers of {results.task.nunique()} tasks, "
        f"{results.correct.sum()} right, {results.parsed.isna().sum()} unreadable, "
        f"{finish.count('repeat')} ended as loops by us; {same} texts the same up to our end"
    )
