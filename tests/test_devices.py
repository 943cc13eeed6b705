"""What a device changes: number formats, tokens at a time, how vLLM is opened, four-bit teachers.

There is no GPU here, so devices are described, not had; bitsandbytes rounds on a processor too,
where it is installed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import arte.align as align_module
import arte.engines.open as opening
import arte.models.load as load_module
import arte.models.train as train_module
from arte.align import align, log_ratios
from arte.core.fields import RecipeError
from arte.core.recipes import load_recipe
from arte.core.settings.machine import EngineSettings
from arte.core.settings.training import Align, Distill
from arte.engines.journal import Journal
from arte.engines.journaled import Journaled
from arte.engines.open import EngineKind, open_model
from arte.engines.protocol import FunctionEngine
from arte.engines.transformers import TransformersEngine
from arte.models.devices.device import Device
from arte.models.folders import fingerprint, resolve_model
from arte.models.load import ModelOptions, load_model
from arte.run.engine import live_engine
from arte.run.pipeline import run
from arte.run.plan.plan import plan
from arte.run.rundir import RunDir
from test_training import ALL, PAIRS

T4 = Device("cuda", bfloat16=False, memory=15.8)
H100 = Device("cuda", memory=80)
APPLE = Device("mps")


@pytest.fixture
def on(monkeypatch):
    "Make the trainer believe in a device."

    def pretend(device):
        for module in (align_module, train_module):
            monkeypatch.setattr(module, "this_device", lambda: device)
            monkeypatch.setattr(module, "fast_bf16", lambda: device == H100)

    return pretend


@pytest.mark.parametrize(
    "device, bf16, fp16, frozen, micro",
    [
        (H100, True, False, "bfloat16", 16),
        (T4, False, True, "float16", 4),
        (APPLE, False, False, "float32", 4),
    ],
)
def test_trainings_fit_the_device(on, device, bf16, fp16, frozen, micro):
    on(device)
    a = train_module.trainer_arguments(Distill(), lengths=[1_000] * 64)
    assert (a["bf16"], a["fp16"], a["use_cpu"]) == (bf16, fp16, False)
    assert a["gradient_checkpointing"] and a["per_device_train_batch_size"] == micro
    assert align_module._frozen_format() == frozen


def test_a_processor_trains_on_few_tokens_at_a_time(on):
    on(Device("cpu", bfloat16=False))
    a = train_module.trainer_arguments(Distill(), lengths=[700] * 64)
    assert (a["bf16"], a["fp16"], a["use_cpu"]) == (False, False, True)
    assert a["per_device_train_batch_size"] == 2 and align_module._frozen_format() == "float32"


# Engines


@pytest.fixture
def opened(monkeypatch):
    "What is opened, in place of opening it."
    calls = []

    class Vllm(FunctionEngine):
        how = "compiled"

        def __init__(self, folder, options, **settings):
            super().__init__(lambda *_: "")
            calls.append(("vllm", options, settings))

    monkeypatch.setattr(opening, "VllmEngine", Vllm)
    monkeypatch.setattr(opening, "find_spec", lambda name: True)
    monkeypatch.setattr(
        opening, "TransformersEngine", lambda f, options: calls.append(("transformers", options))
    )
    opening._say_once.cache_clear()
    return calls


@pytest.mark.parametrize("kind", ["auto", "vllm"])
def test_a_four_bit_model_opens_in_transformers(opened, tiny_model, kind, capsys):
    settings = EngineSettings(kind=kind)
    open_model(tiny_model, ModelOptions(quantize="4bit"), settings)
    open_model(tiny_model, ModelOptions(), settings)
    assert [call[0] for call in opened] == ["transformers", "vllm"]
    said = capsys.readouterr().out
    assert "no four-bit weights" in said and "engine: vLLM, compiled" in said


def test_repeatable_reaches_vllm_and_nothing_else(opened, tiny_model):
    open_model(tiny_model, settings=EngineSettings(kind="vllm", repeatable=True))
    assert opened[-1][2]["repeatable"]
    with pytest.raises(RecipeError, match="only vLLM has such kernels"):
        EngineSettings(kind="transformers", repeatable=True)


def test_repeatable_without_vllm(opened, tiny_model, monkeypatch):
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="engine.repeatable: got true, but only vLLM"):
        open_model(tiny_model, settings=EngineSettings(repeatable=True))


def test_an_engine_learns_how_many_prompts_wait(tiny_model, tmp_path):
    seen = []

    def note(folder, options, settings):
        seen.append(options.prompts)
        return FunctionEngine(lambda p, s, d: p, "echo")

    of_a_run = SimpleNamespace(
        recipe=load_recipe("nano"), models=dict(student={}), model_adapter=lambda role: ""
    )
    asked = Journaled(Journal(tmp_path / "j.db"), "echo")
    kinds = (EngineKind("auto", note),)
    asked.make = lambda: live_engine(of_a_run, "student", tiny_model, kinds, asked.waiting)
    asked.generate(["a", "b", "a"])
    asked.close()
    asked.generate(["a", "b", "c", "d", "e"])
    assert seen == [2, 3]


# Four bits


def test_a_run_with_a_four_bit_teacher_needs_a_gpu(tmp_path):
    with pytest.raises(RecipeError, match="teacher.quantize: got 4bit, which needs a GPU"):
        run(load_recipe("t4", "data.test=bbh"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        "align.train=full",
        "accelerate=fsdp-8",
        "engine={kind: ray}",
        "engine.repeatable=true",
        "teacher.quantize=8",
    ],
)
def test_a_four_bit_teacher_has_an_adapter_on_one_gpu(change):
    with pytest.raises(RecipeError, match="teacher.quantize"):
        load_recipe("t4", change)


def test_only_the_teacher_is_rounded_and_has_a_name_of_its_own(tiny_model, tmp_path):
    recipe = load_recipe("t4")
    assert ModelOptions.of(recipe, "aligned-2").quantize == "4bit"
    assert ModelOptions.of(recipe, "student-arte").quantize == ""
    with RunDir(tmp_path / "run", recipe) as folder:
        for role in ("teacher", "student"):
            folder.register(role, tiny_model)
        names = {role: model["fingerprint"] for role, model in folder.models.items()}
    assert names["student"] == fingerprint(tiny_model) != names["teacher"]
    assert names["teacher"] == fingerprint(tiny_model, quantize="4bit")


def test_weights_are_rounded_as_they_are_opened(tiny_model, monkeypatch):
    import transformers

    asked, load = [], transformers.AutoModelForCausalLM.from_pretrained

    def note(folder, quantization_config=None, **how):
        asked.append(quantization_config)
        return load(folder, **how)

    monkeypatch.setattr(load_module, "check_four_bit", lambda device: None)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", note)
    load_model(tiny_model, ModelOptions("float16", quantize="4bit"))
    load_model(tiny_model, ModelOptions("float16"))
    rounded, plain = asked
    assert plain is None and rounded.load_in_4bit and rounded.bnb_4bit_quant_type == "nf4"
    assert str(rounded.bnb_4bit_compute_dtype) == "torch.float16"


@pytest.mark.long
def test_an_adapter_is_trained_on_rounded_weights(tmp_path, monkeypatch):
    "Of a real model: a processor's kernels want rows of 64 weights and more."
    pytest.importorskip("bitsandbytes", reason="bitsandbytes rounds the weights")
    monkeypatch.setattr(load_module, "check_four_bit", lambda device: None)
    student, options = resolve_model("nano-student"), ModelOptions(quantize="4bit")
    settings = Align(lr=1e-3, epochs=3, warmup=0, **ALL)
    log = align(student, PAIRS, tmp_path / "out", settings, options=options)
    assert log.loss.iloc[0] == pytest.approx(0.693, abs=0.01) and log.margin.iloc[-1] > 0.01
    aligned = replace(options, adapter=str(tmp_path / "out"))
    before, after = (TransformersEngine(student, o) for o in (options, aligned))
    assert "Linear4bit" in {type(m).__name__ for m in after.model.modules()}
    moved = settings.beta * (log_ratios(after, PAIRS) - log_ratios(before, PAIRS)).mean()
    assert moved > log.margin.iloc[1], "the engine does not have what was trained"


def test_t4_fits_a_t4(no_hub):
    named, unnamed = plan(load_recipe("t4"), gpu="t4"), plan(load_recipe("t4"))
    assert named.hours.notna().all() and named.gpu_gb.max() < 15.8
    assert unnamed.gpu_gb.max() == named.gpu_gb.max()
    assert any("4,096 tokens at a time" in line for line in unnamed.attrs["notes"])
    whole = plan(load_recipe("t4", "teacher.quantize=null"), gpu="t4").set_index("stage")
    assert whole.gpu_gb["elicit"] > 15 and whole.gpu_gb["align"] > 16
