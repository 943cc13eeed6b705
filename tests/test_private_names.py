"""Names that libraries do not promise to keep, and what happens without them.

If one of the first tests fails after an update, look up what the library has in its place; the
others check that until then nothing goes wrong silently.
"""

from importlib import import_module
from importlib.util import find_spec

import pytest

from arte import align
from arte.models.attention import share_beginnings
from arte.models.devices.device import this_device
from arte.models.devices.processor import attend_at_once, score_completions_only

NAMES = [
    "torch.cpu._is_avx512_bf16_supported",
    "transformers.PreTrainedModel._supports_attention_backend",
    "transformers.PreTrainedModel.set_attn_implementation",
    "transformers.PreTrainedConfig._attn_implementation",
    "transformers.integrations.sdpa_attention.sdpa_attention_forward",
    "transformers.integrations.get_reporting_integration_callbacks",
    "transformers.masking_utils.sdpa_mask",
    "trl.DPOTrainer._prepare_dataset",
    "trl.trainer.utils._ChunkedLogProbFunction",
    "trl.trainer.utils._use_triton",
]
VLLM = [
    "vllm.distributed.cleanup_dist_env_and_memory",
    "vllm.lora.request.LoRARequest",
    "vllm.sampling_params.RepetitionDetectionParams",
    "vllm.v1.engine.core_client.EngineCoreClient.shutdown",
]


def found(name):
    "Return what a dotted name stands for: modules as far as they go, attributes from there."
    thing, rest = None, name.split(".")
    parts = []
    while rest:
        parts.append(rest[0])
        try:
            thing = import_module(".".join(parts))
        except ModuleNotFoundError:
            break
        rest.pop(0)
    for attribute in rest:
        thing = getattr(thing, attribute)
    return thing


@pytest.mark.parametrize("name", NAMES)
def test_it_is_there(name):
    assert found(name) is not None


@pytest.mark.long
@pytest.mark.parametrize("name", VLLM)
def test_it_is_there_in_vllm(name):
    if not find_spec("vllm"):
        pytest.skip("vLLM isn't installed")
    assert found(name) is not None


def test_training_goes_without_the_switch_of_positions(monkeypatch):
    utils = import_module("trl.trainer.utils")
    monkeypatch.delattr(utils, "_use_triton", raising=False)
    monkeypatch.delattr(utils, "_ChunkedLogProbFunction", raising=False)
    with score_completions_only():
        pass
    assert not hasattr(utils, "_use_triton")


def test_a_function_of_trl_that_takes_other_arguments_is_left_alone(monkeypatch):
    class Other:
        @staticmethod
        def forward(ctx, hidden, weight):
            pass

    utils = import_module("trl.trainer.utils")
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Other)
    with score_completions_only():
        assert utils._ChunkedLogProbFunction is Other


def test_a_processor_that_cannot_be_asked_has_no_fast_bfloat16(monkeypatch):
    torch = import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    this_device.cache_clear()
    assert this_device().bfloat16 is False
    this_device.cache_clear()


def test_a_model_that_does_not_say_so_keeps_its_attention():
    class Config:
        def get_text_config(self):
            return self

    class Model:
        config = Config()

    assert share_beginnings(Model()) == 0
    assert isinstance(attend_at_once(Model()), Model)


def test_alignment_refuses_a_trainer_that_would_make_the_tokens_itself(monkeypatch):
    trl = import_module("trl")
    monkeypatch.setattr(trl, "DPOTrainer", type("DPOTrainer", (), {}))
    with pytest.raises(RuntimeError, match="_prepare_dataset.*pip install"):
        align._trainer_of_tokens()
