"Two processes on the processor train as one does: the same losses, weights that are saved whole."

import math

import pandas as pd
import pytest

from arte.align import align
from arte.models.launch import launch, launch_config
from arte.models.load import ModelOptions, load_model
from arte.models.train import trainer_arguments
from arte.core.settings.training import Align, Distill
from arte.distill import distill

TWO = """
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
use_cpu: true
num_machines: 1
num_processes: 2
machine_rank: 0
mixed_precision: 'no'
"""
SHARDED = """
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: FULL_STATE_DICT
"""


def two(folder, kind):
    "Two processes: each with the whole model (MULTI_GPU), or with half of its weights (FSDP)."
    file = folder / "two.yaml"
    file.write_text(TWO.format(kind=kind) + (SHARDED if kind == "FSDP" else ""))
    return str(file)


def apart(a, b):
    "Mean distance of two models' weights; a model is a folder, or a base folder and an adapter."
    a, b = (weights(*model) if isinstance(model, tuple) else weights(model) for model in (a, b))
    assert set(a) == set(b)
    return sum((a[k] - b[k]).abs().sum().item() for k in a) / sum(x.numel() for x in a.values())


def weights(folder, adapter=""):
    model = load_model(folder, ModelOptions("float32", adapter=str(adapter)))
    return (model.merge_and_unload() if adapter else model).state_dict()


def check_same_change(start, one, two):
    "Both moved away from the start, and much farther than they are from one another."
    assert apart(one, two) < 0.1 * apart(start, one)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["MULTI_GPU", "FSDP"])
def test_distill(tiny_model, tmp_path, kind):
    examples = pd.DataFrame(
        [
            dict(
                arm="arte",
                prompt=f"Question: {'True and ' * (i % 5)}False is\nAnswer:",
                completion=f" So the answer is <ans>{i % 3}</ans>",
            )
            for i in range(16)
        ]
    )
    settings = Distill(lr=1e-3, batch=4, epochs=1, max_length=256)
    logs = [
        launch(config, distill, tiny_model, examples, "arte", tmp_path / name, settings)
        for name, config in (("one", None), ("two", two(tmp_path, kind)))
    ]
    assert len(logs[0]) == len(logs[1]) == 4
    assert logs[0].loss.iloc[-1] < logs[0].loss.iloc[0] - 0.01, "nothing was learned"
    assert logs[1].loss.tolist() == pytest.approx(logs[0].loss.tolist(), abs=1e-3)
    check_same_change(tiny_model, tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("train", ["lora", "full"])
def test_align(tiny_model, tmp_path, train):
    pairs = pd.DataFrame(
        [
            dict(
                pair=i,
                prompt=f"Question: {'not ' * (i % 4)}True is\nAnswer:",
                chosen=f" <ans>{i % 3}</ans>",
                rejected=f" step by step {i}",
            )
            for i in range(8)
        ]
    )
    settings = Align(train=train, lr=1e-2, batch=4, epochs=2, max_length=256)
    logs = [
        launch(config, align, tiny_model, pairs, tmp_path / name, settings)
        for name, config in (("one", None), ("two", two(tmp_path, "FSDP")))
    ]
    assert len(logs[0]) == len(logs[1]) == 4
    assert logs[0].loss[0] == pytest.approx(math.log(2), abs=1e-3), "policy and reference differ"
    assert logs[0].loss.iloc[-1] < logs[0].loss.iloc[0] - 0.01, "nothing was learned"
    assert logs[1].loss.tolist() == pytest.approx(logs[0].loss.tolist(), abs=1e-3)
    one, both = tmp_path / "one", tmp_path / "two"
    if train == "lora":
        one, both = (tiny_model, one), (tiny_model, both)
    check_same_change(tiny_model, one, both)


def test_batch_that_cannot_be_shared_out(tmp_path, capfd):
    "Each of two processes refuses it; they only make the settings, and load no model."
    odd, config = Distill(batch=3, max_length=256), two(tmp_path, "MULTI_GPU")
    with pytest.raises(ChildProcessError, match="trainer_arguments in several processes"):
        launch(config, trainer_arguments, odd, [10, 12, 14])
    assert "a multiple of 2" in capfd.readouterr().err


def test_unknown_configuration():
    with pytest.raises(FileNotFoundError, match="fsdp-8"):
        launch_config("fsdp-9")
