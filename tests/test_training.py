"""Trainings of a tiny model: the first step learns, the engine moves as far as the trainer says,
a second round starts from the first and has it as reference, and pairs that teach nothing."""

import math

import pandas as pd
import pytest

import arte.align as align_module
import arte.models.train as train_module
from arte.align import align, log_ratios
from arte.core.fields import RecipeError
from arte.core.recipes import load_recipe
from arte.core.settings.training import Align, Distill
from arte.distill import distill
from arte.engines.transformers import TransformersEngine
from arte.models.folders import resolve_model
from arte.models.load import ModelOptions, load_model, load_tokenizer

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
RATES = sorted({*RATES, ("full", Align("full").rate)})


@pytest.mark.parametrize("train, rate", RATES)
def test_engine_moves_as_far_as_the_training(tiny_model, tmp_path, exact, train, rate):
    settings = Align(train, rate, epochs=10, warmup=0, schedule="constant", **ALL)
    ours, theirs = both_margins(tiny_model, tmp_path / "out", settings, PAIRS)
    assert ours > 0 and ours == pytest.approx(theirs, rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize("train, rate", RATES)
def test_engine_of_a_real_model_moves_as_far_as_the_training(tmp_path, exact, train, rate):
    settings = Align(train, rate, epochs=3, warmup=0, schedule="constant", **ALL)
    ours, theirs = both_margins(resolve_model("nano-student"), tmp_path / "out", settings, PAIRS)
    assert ours > 0 and ours == pytest.approx(theirs, rel=0.1)


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
    align(tiny_model, PAIRS, tmp_path / "out", Align("full", epochs=2, **ALL))
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


@pytest.mark.parametrize("loss", ["ipo", "robust", "apo_zero", "hinge", "exo_pair"])
def test_other_losses_train(tiny_model, tmp_path, loss):
    settings = Align(lr=1e-2, loss=loss, epochs=4, **ALL)
    if loss in ("robust", "exo_pair"):
        settings = Align(**vars(settings) | dict(label_smoothing=0.1))
    log = align(tiny_model, PAIRS, tmp_path / "out", settings)
    assert log.margin.iloc[-1] > log.margin[0]
