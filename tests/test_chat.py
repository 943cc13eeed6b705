"""Chat templates with engines, trainings and runs: what a model really reads, token by token."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from arte.core.answers import STOP
from arte.core.fields import RecipeError, from_dict
from arte.core.recipes import load_recipe
from arte.core.settings.recipe import Recipe
from arte.engines.journal import Journal
from arte.engines.journaled import Journaled
from arte.engines.protocol import FunctionEngine, Sampling
from arte.engines.server import ServerEngine
from arte.engines.transformers import TransformersEngine
from arte.models.chat import (
    Begun,
    ChatTemplate,
    is_thinking,
    open_template,
    read_template,
    training_texts,
    without_thinking,
)
from arte.models.folders import fingerprint, resolve_model
from arte.models.load import ModelOptions, load_tokenizer, save_model, load_model
from arte.models.nano.tiny import tiny_tokenizer
from arte.run.engine import open_engine, template_of
from arte.run.rundir import RunDir

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LOSING = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
RAISING = "{{ raise_exception('Conversation roles must alternate user/assistant/user') }}"
ENDING = CHATML + "<|im_end|>"
FLOAT32 = ModelOptions("float32", chat="auto")
PROMPTS = ["Question: not True is\nAnswer:", "2 + 2 is?"]


def with_template(model, out, template=CHATML):
    "A copy of a model that knows the tokens of ChatML and ends its text as ChatML ends a turn."
    tokenizer, weights = load_tokenizer(model), load_model(model)
    tokenizer.add_special_tokens(dict(additional_special_tokens=["<|im_start|>", "<|im_end|>"]))
    tokenizer.chat_template = template
    weights.resize_token_embeddings(len(tokenizer))
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    weights.generation_config.eos_token_id = ends
    return save_model(weights, tokenizer, out)


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    return with_template(tiny_model, tmp_path_factory.mktemp("chat") / "chatty")


@pytest.fixture(scope="module")
def engine(model):
    engine = TransformersEngine(model, FLOAT32)
    yield engine
    engine.close()


@pytest.fixture
def journaled(engine, model, tmp_path):
    template = open_template(model, FLOAT32)
    journal = Journal(tmp_path / "j.db")
    return Journaled(journal, engine.fingerprint, lambda: engine, template=template)


def turn(prompt, answer=""):
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{answer}"


def test_engines_read_the_template(journaled, engine):
    asked = list(map(turn, PROMPTS))
    sampling = Sampling(max_tokens=5)
    assert journaled.generate(PROMPTS, sampling) == engine.generate(asked, sampling)
    assert journaled.first_tokens(PROMPTS, 3) == engine.first_tokens(asked, 3)
    begun = [Begun(p, " So the answer is") for p in PROMPTS]
    begun_turns = [turn(p, "So the answer is") for p in PROMPTS]
    assert journaled.generate(begun, sampling) == engine.generate(begun_turns, sampling)
    for ours, texts, scores in (
        (PROMPTS, asked, ["True"] * 2),
        (begun, begun_turns, [" True"] * 2),
    ):
        found = journaled.logprobs(ours, [" True"] * 2)
        for a, b in zip(found, engine.logprobs(texts, scores), strict=True):
            assert np.allclose(a, b, atol=1e-6)


def test_a_server_gets_the_template_s_tokens(model, monkeypatch, tmp_path):
    "The completions endpoint knows no template: we send it the tokens of ours."
    sent = []

    def create(prompt, **settings):
        sent.append(prompt)
        choice = SimpleNamespace(text="4", finish_reason="stop", stop_reason=None)
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(completion_tokens=1))

    served = [SimpleNamespace(id="m", owned_by="vllm")]
    client = SimpleNamespace(
        api_key="no key",
        models=SimpleNamespace(list=lambda: SimpleNamespace(data=served)),
        completions=SimpleNamespace(create=create),
        close=lambda: None,
    )
    monkeypatch.setattr("arte.engines.server.open_client", lambda *a, **how: client)
    server = ServerEngine(model, "http://localhost/v1", "m")
    template = open_template(model, FLOAT32)
    asked = Journaled(
        Journal(tmp_path / "j.db"), server.fingerprint, lambda: server, template=template
    )
    assert asked.generate(PROMPTS[:1])[0][0].text == "4"
    assert sent == [server.tokenizer(turn(PROMPTS[0])).input_ids]


def test_a_plain_prompt_with_a_beginning_is_one_text(engine, tmp_path):
    plain = Journaled(Journal(tmp_path / "j.db"), engine.fingerprint, lambda: engine)
    begun = Begun("2 + 2 is?", " So")
    assert np.allclose(
        plain.logprobs([begun], [" 4"])[0], plain.logprobs(["2 + 2 is? So"], [" 4"])[0]
    )
    assert plain.hits == 1  # the journal knows them as one


def test_training_reads_what_the_engine_reads(model, engine):
    tokenizer = load_tokenizer(model)
    rows = [dict(prompt=p, completion=" It is 4") for p in PROMPTS]
    texts = training_texts(model, FLOAT32, tokenizer, rows, ("completion",))
    assert [t["prompt"] for t in texts] == list(map(turn, PROMPTS))
    assert [t["completion"] for t in texts] == ["It is 4"] * 2
    # TRL ends each answer with the tokenizer's EOS: the engine must stop there
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id in engine.eos
    assert tokenizer.pad_token != tokenizer.eos_token


def test_trained_in_its_template(model, tmp_path):
    "What TRL makes of an example: the turn in the template, and a loss on the answer and its end."
    from arte.models.train import sft_trainer

    tokenizer, weights = load_tokenizer(model), load_model(model)
    rows = [dict(prompt=p, completion=" It is 4") for p in PROMPTS]
    texts = training_texts(model, FLOAT32, tokenizer, rows, ("completion",))
    trainer = sft_trainer(
        weights, tokenizer, texts, load_recipe("nano").distill, folder=tmp_path / "sft"
    )
    batch = next(iter(trainer.get_train_dataloader()))
    read = [x[m.bool()].tolist() for x, m in zip(batch["input_ids"], batch["attention_mask"])]
    wanted = tokenizer([turn(p, "It is 4<|im_end|>") for p in PROMPTS]).input_ids
    assert sorted(read) == sorted(wanted)
    answer = tokenizer("It is 4<|im_end|>").input_ids
    for labels in batch["labels"]:
        assert labels[labels >= 0].tolist() == answer


@pytest.mark.parametrize(
    "template, why",
    [
        (LOSING, "loses or changes the prompt"),
        (RAISING, "must alternate"),
        (ENDING, "ends the text"),
    ],
)
def test_a_run_refuses_a_bad_template_at_once(tiny_model, tmp_path, template, why):
    from arte.run.parts import PARTS
    from arte.run.pipeline import run
    from support.tiny import tiny_recipe

    bad = with_template(tiny_model, tmp_path / "bad", template)
    recipe = tiny_recipe(teacher=dict(model=str(bad), chat="on"), eval=dict(max_tokens=160))
    with pytest.raises(ValueError, match=why) as e:
        run(recipe, tmp_path / "run", parts=PARTS)
    assert "chat: off" in str(e.value) and "bad" in str(e.value)
    assert not RunDir(tmp_path / "run").stages


def test_a_run_notes_the_template_and_is_replayed_without_the_model(model, tmp_path):
    from support.tiny import tiny_recipe

    recipe = tiny_recipe(teacher=dict(model=str(model)), engine=dict(kind="transformers"))
    with RunDir(tmp_path / "run", recipe) as run:
        run.register("teacher", model)
        engine = open_engine(run, "teacher")
        first = engine.generate(PROMPTS, Sampling(max_tokens=3))
        engine.close()
    models = json.loads((tmp_path / "run" / "models.json").read_text())
    models["teacher"]["folder"] = str(tmp_path / "gone")
    (tmp_path / "run" / "models.json").write_text(json.dumps(models))
    later = RunDir(tmp_path / "run")
    assert template_of(later, "teacher")("x") == turn("x")
    assert open_engine(later, "teacher").generate(PROMPTS, Sampling(max_tokens=3)) == first


def test_an_old_recipe_is_refused_with_what_to_write():
    for value in (True, False):
        with pytest.raises(RecipeError, match="teacher: {chat: off} and student: {chat: off}"):
            load_recipe("nano", **{"chat": value})
    values = dict(name="x", tasks=["navigate"], teacher={"model": "t"}, student={"model": "s"})
    with pytest.raises(RecipeError, match="teacher.chat and student.chat"):
        from_dict(Recipe, values | dict(chat=False))


def test_recorded_runs_have_plain_prompts():
    "Those of the paper; models without a school read their own templates."
    unschooled = Path("nbs/howto"), Path("nbs/paper/runs/larger")
    for file in Path("nbs").glob("**/recipe.yaml"):
        if any(file.is_relative_to(folder) for folder in unschooled):
            continue
        recipe = load_recipe(file)
        assert recipe.teacher.chat == recipe.student.chat == "off"


def thinks(text, prompt_tokens=None):
    return FunctionEngine(lambda prompt, sampling, draw: text, "thinker")


@pytest.mark.parametrize(
    "text, shown, finish",
    [
        (
            "<think>Is it <ans>1</ans>?</think>\n\nIt is <ans>2</ans>. So",
            "It is <ans>2</ans>",
            "stop",
        ),
        ("<think>Is it <ans>1</ans>? Or", "", "length"),
        ("<think>", "", "length"),
        ("It is <ans>2</ans>", "It is <ans>2</ans>", "stop"),
    ],
)
def test_thinking_stays_out_of_answers(tmp_path, text, shown, finish):
    engine = Journaled(Journal(tmp_path / "j.db"), "thinker", lambda: thinks(text))
    sampling = Sampling(stop=STOP)
    (c,) = engine.generate(["?"], sampling)[0]
    assert (c.text, c.finish) == (shown, finish)
    kept = engine.journal.db.execute("SELECT text FROM completions").fetchone()[0]
    assert text.startswith(kept)  # as the model wrote it
    assert engine.generate(["?"], sampling)[0] == [c] and engine.hits == 1


pieces = st.lists(st.sampled_from(["<think>", "</think>", "<think", "a", " ", "\n"]), max_size=12)


@given(pieces.map("".join))
@settings(max_examples=500, deadline=None)
def test_nothing_thought_is_left(text):
    left = without_thinking(text)
    assert "<think>" not in left and "</think>" not in left
    assert without_thinking(left) == left
    if "think>" not in text:
        assert left == text
    shut = without_thinking(text + "</think>") if is_thinking(text) else left
    assert shut == left


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts, texts)
@settings(max_examples=200, deadline=None)
def test_any_prompt_is_there_unchanged(prompt, begun):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    template = read_template(tokenizer)
    assert template(prompt) == turn(prompt)
    assert template(Begun(prompt, begun)) == turn(prompt, begun.removeprefix(" "))
    assert template(Begun(prompt, begun, exact=True)) == turn(prompt, begun)
    assert Begun(prompt, begun) == prompt + begun


@pytest.mark.model
def test_smollm2(tmp_path):
    "The template of a real instruct model, against its tokenizer's own rendering."
    folder = resolve_model("nano-student")
    tokenizer = load_tokenizer(folder)
    template = open_template(folder, FLOAT32)
    for prompt in PROMPTS:
        talk = [dict(role="user", content=prompt)]
        whole = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert template(prompt) == whole
        ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert tokenizer(template(prompt)).input_ids == ids
        talk.append(dict(role="assistant", content="So the answer is"))
        more = dict(tokenize=False, continue_final_message=True)
        assert template(Begun(prompt, " So the answer is")) == tokenizer.apply_chat_template(
            talk, **more
        )
    engine = TransformersEngine(folder, FLOAT32)
    asked = Journaled(
        Journal(tmp_path / "j.db"), fingerprint(folder), lambda: engine, template=template
    )
    question = "What is the capital of France? Answer with one word."
    (c,) = asked.generate([question], Sampling(max_tokens=40))[0]
    assert c.finish == "eos" and "Paris" in c.text  # it ends its turn
    right, wrong = asked.logprobs([Begun(question, " The capital is")] * 2, [" Paris", " London"])
    assert right.sum() > wrong.sum() + 1
    engine.close()


def test_chat_template_is_a_value():
    assert ChatTemplate("a", "b") == ChatTemplate("a", "b", "", "")
