"""What several files of tests stand on."""

import pytest

from arte.data import places
from arte.core.recipes import load_recipe
from support.tiny import SMALL


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    "No data folder by environment, no cache, no network; the hub is asked anew."
    for o in (
        "ARTE_DATA",
        "ARTE_BENCHMARKS",
        "ARTE_BASELINES",
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "HF_DATASETS_CACHE",
    ):
        monkeypatch.delenv(o, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    asked = places.hub_reachable  # a test may put something else in its place
    asked.cache_clear()
    yield monkeypatch
    asked.cache_clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    "A random Llama of two layers with a word-level tokenizer: trains in seconds, knows nothing."
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.train_from_iterator(
        [
            "Task Description: Question: Answer: Let's think step by step. So the answer is <ans>True</ans> False"
        ]
        * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=2048,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(tiny_model):
    return load_recipe(
        "nano", **SMALL | {"teacher.model": str(tiny_model), "student.model": str(tiny_model)}
    )
