"""Trainings of a tiny model: the first step learns, the engine moves as far as the trainer says,
a second round starts from the first and has it as reference, and pairs that teach nothing."""

import math
import re
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

import arte.align as align_module
import arte.models.train as train_module
import arte.run.stages.align as align_stage
from arte.align import LOSSES, SMOOTHED, align, log_ratios
from arte.core.fields import RecipeError
from arte.core.recipes import load_recipe
from arte.core.settings.training import Align, Distill
from arte.distill import distill
from arte.engines.transformers import TransformersEngine
from arte.models.folders import resolve_model
from arte.models.load import (
    ENOUGH,
    ModelOptions,
    load_model,
    load_tokenizer,
    merge_adapter,
    surviving_share,
)
from arte.models.train import save_bf16
from support.world import World

PAIRS = pd.DataFrame(
    [
        dict(
            pair=f"p{i}",
            kind="rationale",
            task="t",
            prompt=f"Question: {'not ' * (i % 4)}True is\nAnswer: Let's think step by step.",
            chosen=f" So the answer is <ans>{i % 3}</ans>",
            rejected=f" I do not know {i}, and so on.",
        )
        for i in range(8)
    ]
)
ALL = dict(batch=8, max_length=256)  # one step an epoch, of all pairs


@pytest.fixture
def exact(monkeypatch):
    "Arithmetic in float32, so that small moves can be seen."
    for module in (align_module, train_module):
        monkeypatch.setattr(module, "fast_bf16", lambda: False)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_first_step_of_dpo_learns(tiny_model, tmp_path, schedule):
    settings = Align(lr=1e-3, epochs=10, warmup=0.3, schedule=schedule, **ALL)
    lr = align(tiny_model, PAIRS, tmp_path / "out", settings).lr
    assert lr[0] == pytest.approx(1e-3 / 3) and lr[2] == lr.max() == pytest.approx(1e-3)
    assert lr.min() > 0


def test_first_step_of_fine_tuning_learns(tiny_model, tmp_path):
    examples = PAIRS.rename(columns=dict(chosen="completion")).assign(arm="arte")
    settings = Distill(lr=1e-3, epochs=10, warmup=0.3, **ALL)
    lr = distill(tiny_model, examples, "arte", tmp_path / "out", settings).lr
    assert lr[0] == pytest.approx(1e-3 / 3) and lr[2] == lr.max() == pytest.approx(1e-3)
    assert lr.min() > 0


def opened(folder, out, train):
    "The aligned teacher as a run opens it, but in float32."
    if train == "lora":
        return TransformersEngine(folder, ModelOptions("float32", adapter=str(out)))
    return TransformersEngine(out, ModelOptions("float32"))


def both_margins(folder, out, settings, pairs):
    """The mean margin after n steps, by the engine that opens what n steps left, and by the
    trainer, which logs it as step n + 1 begins."""
    n = settings.epochs
    whole = pairs.assign(
        **{c: pairs[c] + load_tokenizer(folder).eos_token for c in ("chosen", "rejected")}
    )
    longer = Align(**vars(settings) | dict(epochs=n + 1))
    theirs = align(folder, pairs, out, longer).margin.iloc[-1]
    align(folder, pairs, out, settings)
    before = log_ratios(TransformersEngine(folder, ModelOptions("float32")), whole)
    after = log_ratios(opened(folder, out, settings.train), whole)
    return settings.beta * (after - before).mean(), theirs


RATES = [
    (load_recipe(name).align.train, load_recipe(name).align.rate)
    for name in ("nano", "small", "paper")
]
# and the paper's own rate, for all weights and for an adapter
RATES = sorted({*RATES, ("full", Align(train="full").rate), ("lora", Align(train="full").rate)})


@pytest.mark.parametrize("train, rate", RATES)
def test_engine_moves_as_far_as_the_training(tiny_model, tmp_path, exact, train, rate):
    settings = Align(train=train, lr=rate, epochs=10, warmup=0, schedule="constant", **ALL)
    ours, theirs = both_margins(tiny_model, tmp_path / "out", settings, PAIRS)
    assert ours > 0 and ours == pytest.approx(theirs, rel=0.1)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    "SmolLM2 with 135 million parameters, in bfloat16."
    student = resolve_model("nano-student")
    folder = tmp_path_factory.mktemp("real") / "bf16"
    return save_bf16(load_model(student), load_tokenizer(student), folder)


@pytest.mark.long
@pytest.mark.parametrize("train, rate", RATES)
def test_engine_of_a_real_model_moves_as_far_as_the_training(real, tmp_path, exact, train, rate):
    """Weights in bfloat16, arithmetic in float32. Nothing is lost on the way from the training to
    the engine, unless all weights are trained and the engine opens them in bfloat16."""
    settings = Align(train=train, lr=rate, epochs=3, warmup=0, schedule="constant", **ALL)
    ours, theirs = both_margins(real, tmp_path / "out", settings, PAIRS)
    print(f"{train} {rate}: margin {ours:.3g} nats by the engine, {theirs:.3g} by the trainer")
    assert ours > 0 and ours == pytest.approx(theirs, rel=0.1)
    if train == "full":
        share = surviving_share(real, tmp_path / "out")
        print(f"{share:.1%} of it survives in bfloat16")
        assert share < ENOUGH


@pytest.mark.long
def test_engine_in_bfloat16_moves_as_far_as_the_training(real, tmp_path):
    "As a run trains and opens it; at the rates of the other presets it rounds more than it moves."
    rate = load_recipe("nano").align.rate
    settings = Align(train="lora", lr=rate, epochs=10, warmup=0, schedule="constant", **ALL)
    log = align(real, PAIRS, tmp_path / "out", settings)
    before = log_ratios(TransformersEngine(real), PAIRS)
    opened_as_in_a_run = TransformersEngine(real, ModelOptions(adapter=str(tmp_path / "out")))
    ours = settings.beta * (log_ratios(opened_as_in_a_run, PAIRS) - before).mean()
    print(f"margin {ours:.3g} nats by the engine after 10 steps, {log.margin.iloc[-1]:.3g} after 9")
    assert log.margin.iloc[-1] > 0.1 and ours == pytest.approx(log.margin.iloc[-1], rel=0.3)


MANY = pd.concat([PAIRS] * 25, ignore_index=True)
MANY = MANY.assign(chosen=[f" It is {i}." for i in range(200)])


@pytest.mark.parametrize(
    "rate, low, high", [(1e-7, 0.05, 0.2), (1e-6, 0.7, 0.95), (1e-4, 0.99, 1.01)]
)
def test_what_merging_into_bfloat16_keeps(tiny_model, tmp_path, capsys, rate, low, high):
    "A tiny model in bfloat16, 200 pairs, 100 steps."
    base = save_bf16(load_model(tiny_model), load_tokenizer(tiny_model), tmp_path / "bf16")
    log = align(base, MANY, tmp_path / "out", Align(lr=rate, batch=2, max_length=256))
    assert len(log) == 100
    share = merge_adapter(base, tmp_path / "out", tmp_path / "merged")
    print(f"{rate}: {share:.1%}")
    assert low < share < high
    said = f"only {share:.0%} of the update survives in bfloat16"
    assert (said in capsys.readouterr().out) == (share < ENOUGH)


def test_a_run_warns_of_an_alignment_that_is_rounded_away(tiny_model, tmp_path, monkeypatch):
    world, full = World(monkeypatch, tiny_model, tmp_path), {"align.train": "full"}
    monkeypatch.setattr(align_stage, "surviving_share", lambda *models: 0.09)
    rounded = world.run(full | {"rounds": 2})[0]
    for name in ("align", "rounds"):
        counts = rounded.stages[name]["counts"]
        assert counts["update that survives rounding"] == "9%"
        assert "only 9% of the alignment survives in bfloat16" in counts["WARNING"]
    for exact in ({"engine.dtype": "float32"}, {"align.train": "lora"}):
        counts = world.run(full | exact)[0].stages["align"]["counts"]
        assert "update that survives rounding" not in counts


def test_second_round_starts_from_the_first_and_refers_to_it(tiny_model, tmp_path, exact):
    first = Align(lr=1e-2, epochs=6, warmup=0, **ALL)
    align(tiny_model, PAIRS, tmp_path / "one", first)
    options = ModelOptions(adapter=str(tmp_path / "one"))
    still = Align(lr=1e-12, epochs=1, **ALL)
    log = align(tiny_model, PAIRS, tmp_path / "two", still, options=options)
    assert log.loss[0] == pytest.approx(math.log(2), abs=1e-4), "the reference is not round 1"
    assert log.margin[0] == pytest.approx(0, abs=1e-3)
    one, two = (
        log_ratios(opened(tiny_model, tmp_path / name, "lora"), PAIRS) for name in ("one", "two")
    )
    base = log_ratios(TransformersEngine(tiny_model, ModelOptions("float32")), PAIRS)
    assert abs(one - base).mean() > 0.1, "round 1 did not move"
    assert two == pytest.approx(one, abs=1e-3), "round 2 does not start from round 1"
    assert not (tmp_path / "two" / "ref").exists()


def test_all_weights_are_saved_in_full(tiny_model, tmp_path, exact):
    "A step of 1e-7 is below the spacing of most bfloat16 numbers, so none is saved in bfloat16."
    align(tiny_model, PAIRS, tmp_path / "out", Align(train="full", epochs=2, **ALL))
    before, after = (
        load_model(f, ModelOptions("float32")).state_dict() for f in (tiny_model, tmp_path / "out")
    )
    moved = [(after[k] - before[k]).abs().max().item() for k in before]
    assert 0 < max(moved) < 1e-6


def test_pairs_that_teach_nothing(tiny_model, tmp_path):
    settings = Align(batch=8, max_length=12)
    with pytest.raises(
        ValueError, match="all 8 pairs are equal in their first align.max_length = 12"
    ):
        align(tiny_model, PAIRS, tmp_path / "out", settings)
    with pytest.raises(ValueError, match="no pairs"):
        align(tiny_model, PAIRS[:0], tmp_path / "out", Align(**ALL))


def test_unknown_loss(tiny_model, tmp_path):
    with pytest.raises(RecipeError, match="align.loss: got 'sigmod'.*Did you mean sigmoid"):
        align(tiny_model, PAIRS, tmp_path / "out", Align(loss="sigmod", **ALL))


def test_losses_are_those_of_the_installed_trl():
    trainer = Path(find_spec("trl").origin).parent / "trainer" / "dpo_trainer.py"
    _, *blocks = re.split(r'if loss_type == "(\w+)":', trainer.read_text(encoding="utf-8"))
    theirs = dict(zip(blocks[::2], blocks[1::2]))
    assert LOSSES == tuple(theirs)
    assert SMOOTHED == tuple(n for n, code in theirs.items() if "label_smoothing" in code)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(tiny_model, tmp_path, loss):
    smoothing = 0.1 if loss in SMOOTHED else 0
    settings = Align(lr=1e-2, loss=loss, label_smoothing=smoothing, epochs=4, **ALL)
    margin = align(tiny_model, PAIRS, tmp_path / "out", settings).margin.iloc[-1]
    # DiscoPOP's loss is not convex: from 0 it falls towards smaller margins, too
    assert margin > 0.01 or (loss == "discopop" and margin < -0.01)
