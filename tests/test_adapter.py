"""An adapter that stays beside its model's weights gives what the merged model gives."""

import numpy as np
import pandas as pd
import pytest
from transformers import LlamaForCausalLM

from arte.align import align
from arte.core.settings.machine import EngineSettings
from arte.core.settings.training import Align
from arte.engines.open import ENGINES, open_model
from arte.engines.protocol import Sampling
from arte.engines.transformers import TransformersEngine
from arte.models.folders import fingerprint
from arte.models.load import (
    ModelOptions,
    load_model,
    load_tokenizer,
    merge_adapter,
    save_model,
)
from arte.models.nano.tiny import save_tiny_model
from support.adapters import save_adapter

BEGINNING = "one two three four five six seven eight nine ten " * 3
PROMPTS = [BEGINNING + word for word in "red blue green old new".split()] + ["one", "two and"]
CONTINUATIONS = [" and then", " and", " no", " yes it is", " a", " b c d", " e"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Return a tiny model, an adapter that changes it a lot, and the two merged in float32."
    folder = tmp_path_factory.mktemp("models")
    tiny = save_tiny_model(folder / "tiny")
    adapter = save_adapter(tiny, folder / "adapter", std=0.05, r=4)
    share = merge_adapter(tiny, adapter, folder / "merged", ModelOptions("float32"))
    assert share == pytest.approx(1, abs=1e-4)
    return tiny, adapter, folder / "merged"


def test_unmerged_and_merged_give_the_same(folders):
    tiny, adapter, merged = folders
    apart = TransformersEngine(tiny, ModelOptions("float32", adapter=str(adapter)))
    plain, one = (TransformersEngine(f, ModelOptions("float32")) for f in (tiny, merged))
    assert apart.longest_shared == one.longest_shared > 0
    for sampling in (Sampling(max_tokens=12), Sampling(1.0, max_tokens=12, n=3, seed=5)):
        assert apart.generate(PROMPTS, sampling) == one.generate(PROMPTS, sampling)
    scores = [engine.logprobs(PROMPTS, CONTINUATIONS) for engine in (apart, one, plain)]
    for a, b, without in zip(*scores):
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.abs(a - without).max() > 0.01
    for a, b in zip(apart.first_tokens(PROMPTS, 5), one.first_tokens(PROMPTS, 5)):
        assert [t.text for t in a] == [t.text for t in b]


def test_a_fingerprint_covers_the_adapter(folders):
    tiny, adapter, merged = folders
    apart = fingerprint(tiny, adapter)
    assert len({fingerprint(tiny), apart, fingerprint(merged)}) == 3
    assert TransformersEngine(tiny, ModelOptions(adapter=str(adapter))).fingerprint == apart


@pytest.fixture(scope="module")
def other(folders, tmp_path_factory):
    "Return a model for which the adapter was not made."
    tiny, _, _ = folders
    config = load_model(tiny).config
    config.update(dict(hidden_size=64))
    folder = tmp_path_factory.mktemp("models") / "other"
    return save_model(LlamaForCausalLM(config), load_tokenizer(tiny), folder)


def test_an_adapter_of_another_model_is_refused(folders, other):
    with pytest.raises(ValueError, match="does not fit the model"):
        TransformersEngine(other, ModelOptions(adapter=str(folders[1])))


# a chat server's model has no folder, and so no adapter
@pytest.mark.parametrize("kind", [kind.name for kind in ENGINES if kind.name != "chat"])
def test_every_engine_refuses_it_before_it_opens_anything(folders, other, kind):
    "No vLLM, no Ray, and no server is there to ask."
    there = dict(url="http://127.0.0.1:9/v1", model="m") if kind == "server" else {}
    settings = EngineSettings(kind=kind, **there)
    with pytest.raises(ValueError, match="does not fit the model"):
        open_model(other, ModelOptions(adapter=str(folders[1])), settings)
    with pytest.raises(FileNotFoundError, match="is not an adapter folder"):
        open_model(other, ModelOptions(adapter=str(other)), settings)


def test_a_second_round_refuses_it_before_it_trains(folders, other, tmp_path):
    pairs = pd.DataFrame([dict(prompt="one", chosen=" two", rejected=" three")])
    options = ModelOptions(adapter=str(folders[1]))
    with pytest.raises(ValueError, match="does not fit the model"):
        align(other, pairs, tmp_path / "out", Align(), options=options)
