"""Trainings are followed by trackers, which look on and change nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from arte.models.folders import fingerprint
from arte.core.settings.training import Align, Distill
from arte.core.settings.recipe import Recipe
from arte.core.fields import RecipeError
from arte.core.settings.machine import Tracker
from typing import get_args
from arte.run.rundir import RunDir
from arte.run.pipeline import run
from arte.run.stages.train import learn
from arte.run.parts import PARTS
from arte.run.stages.align import run_align

EXAMPLES = pd.DataFrame(
    [
        dict(
            arm="arte",
            prompt=f"Question: {'not ' * (i % 5)}True is\nAnswer:",
            completion=f" So the answer is <ans>{i % 3}</ans>",
        )
        for i in range(8)
    ]
)
PAIRS = pd.DataFrame(
    [
        dict(
            pair=str(i),
            kind="rationale",
            task="boolean_expressions",
            prompt=f"Question: {'not ' * (i % 4)}True is\nAnswer:",
            chosen=f" <ans>{i % 3}</ans>",
            rejected=f" step by step {i}",
        )
        for i in range(4)
    ]
)
SMALL = dict(
    distill=Distill(lr=1e-3, batch=4, max_length=1024),
    align=Align(lr=1e-3, batch=2, max_length=1024, held_out_pairs=0),
)


@pytest.fixture
def trained(recipe, tiny_model, tmp_path):
    def f(name, report_to):
        with RunDir(tmp_path / name, replace(recipe, report_to=report_to, **SMALL)) as folder:
            for role in ("teacher", "student"):
                folder.register(role, tiny_model)
            folder.save("pairs", PAIRS)
            learn(folder, "student", EXAMPLES, "arte", "student-arte")
            run_align(folder, PARTS)
        return folder

    return f


def scalars(folder, tag):
    "What an event file says, step by step."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {e.step: e.value for e in events.Scalars(tag)}


def losses(folder, role):
    log = pd.read_parquet(folder.path("models", f"{role}.log.parquet"))
    return dict(zip(log.step, log.loss))


def test_tensorboard_by_default(trained):
    folder = trained("run", None)
    for role, steps in (("student-arte", 2), ("aligned", 2)):
        logs = list(folder.path("logs", role).iterdir())
        assert len(logs) == 1 and logs[0].name.startswith("events.out.tfevents.")
        assert (
            scalars(logs[0].parent, "train/loss") == pytest.approx(losses(folder, role))
            and len(losses(folder, role)) == steps
        )
    assert set(scalars(folder.path("logs", "aligned"), "train/rewards/margins")) == {1, 2}


def test_a_training_begun_again_begins_its_curve_again(trained):
    folder = trained("run", None)
    with RunDir(folder.folder, folder.recipe) as again:
        again.register(
            "student-arte", folder.model_folder("student-arte")
        )  # forgets what it is made of, as after a kill
        learn(again, "student", EXAMPLES, "arte", "student-arte")
    assert len(list(folder.path("logs", "student-arte").iterdir())) == 1


def test_nothing_else_changes(trained):
    with_logs, without = trained("with", ("tensorboard",)), trained("without", ())
    assert not without.path("logs").exists()
    for role in ("student-arte", "aligned"):
        one, two = with_logs.models[role], without.models[role]
        assert one["made_of"] == two["made_of"]
        now = fingerprint(with_logs.model_folder(role), with_logs.model_adapter(role))
        assert one["fingerprint"] == two["fingerprint"] == now
        assert (
            with_logs.path("models", f"{role}.log.parquet").read_bytes()
            == without.path("models", f"{role}.log.parquet").read_bytes()
        )


def test_without_tensorboard(trained, monkeypatch):
    for name in ("tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = trained("run", None)
    assert len(losses(folder, "aligned")) == 2 and not folder.path("logs").exists()


def test_asked_for_and_not_there(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match="wandb can't be imported here. pip install wandb"):
        run(replace(recipe, report_to=("tensorboard", "wandb")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="Did you mean wandb?"):
        replace(recipe, report_to=("wandbb",))


def test_transformers_knows_these_names():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(get_args(Tracker)) <= set(INTEGRATION_TO_CALLBACK)


@pytest.mark.parametrize(
    "folder",
    [p.parent for p in sorted((Path(__file__).parent.parent / "nbs").rglob("recipe.yaml"))],
    ids=lambda p: p.name,
)
def test_recordings_of_before_still_open(folder):
    assert isinstance(RunDir(folder).recipe, Recipe)
