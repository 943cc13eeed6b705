"""Faults that users of similar tools have met: bad texts, files and servers do no silent harm.

Each test is one kind of fault. The inputs in files lie in `cases`, beside the folder that
`ARTE_DATA` names; where they are not, their tests are skipped. The others are made here.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pandas as pd
import pytest
from tokenizers.decoders import ByteLevel
from tokenizers.processors import TemplateProcessing

from arte.core.answers import STOP, cut_answer, extract_answer, grade, normalise
from arte.core.tags import tag_question
from arte.core.tasks import get_task, load_tasks
from arte.data.benchmarks import load_benchmark
from arte.data.instructions import load_instructions
from arte.data.own_file import task_from_csv
from arte.distill import check_equal
from arte.elicit import Sieve
from arte.engines.guard.endings import death_explained
from arte.engines.journal import CompletionRow, Journal, entry_key
from arte.engines.journaled import Journaled
from arte.engines.protocol import Completion, FunctionEngine, Sampling
from arte.engines.server import ServerEngine
from arte.engines.transformers import TransformersEngine
from arte.models.chat import open_template
from arte.models.load import ModelOptions, load_model, load_tokenizer
from arte.run.cli import USER_ERRORS, message
from arte.run.rundir import RunDir
from support.loopback import say
from support.tiny import tiny_recipe

CASES = Path(os.environ.get("ARTE_DATA", "../shared/data")).resolve().parent / "cases"
FLOAT32 = ModelOptions("float32")
in_files = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there")


# Answers


def answers(group):
    if not CASES.is_dir():
        return []
    return json.loads((CASES / "answers.json").read_text(encoding="utf-8"))[group]


@in_files
@pytest.mark.parametrize("case", answers("can_be_read_in_two_ways"), ids=lambda c: c["answer"])
def test_two_readings_get_no_credit(case):
    assert normalise(case["answer"], case["kind"]) == case["right"]


@in_files
@pytest.mark.parametrize("case", answers("one_clear_answer"), ids=lambda c: c["answer"])
def test_a_clear_answer_in_a_wrapper_gets_credit(case):
    question = "Which?\nOptions:\n(A) red\n(B) blue"
    text = f"<ans>{case['answer']}</ans>"
    assert grade(text, case["gold"], case["kind"], question).correct == case["right"]


@in_files
@pytest.mark.parametrize("case", answers("tags"), ids=lambda c: c["text"])
def test_tags_in_another_form(case):
    assert normalise(extract_answer(case["text"]), case["kind"]) == case["right"]


BEFORE_THE_ANSWER = [
    "<think>The result goes between <ans> and </ans>. 3 + 4 = 7.</think> So the answer is",
    "<think>As in\nQuestion: 3 + 4?\nAnswer: <ans>8</ans></think>",
    "<think>Perhaps <ans>8</ans>? No.</think>",
    "My final answer will stand between <ans> and </ans>. 3 + 4 = 7, so it is",
    "I will use `<ans>` and `</ans>`.",
    "Remember to include the answer with the tag <ans>...</ans>.",
    "Finish with the answer between tags, like <ans>8</ans> or <ans>-12</ans>. So:",
    "I close with </ans>.",
]


@pytest.fixture
def speaker(tiny_model):
    "An engine of ours whose model says what it is told, token by token."
    import torch

    class Speaks(TransformersEngine):
        def _forward(self, batch, keep=1):
            done = len(batch.rows[0].ids) if batch.rows else 0
            logits = torch.zeros(len(batch.x), 1, len(self.tokenizer))
            logits[:, 0, self.words[done]] = 1
            return logits

        def say(self, text):
            self.words = self.tokenizer(text, add_special_tokens=False).input_ids
            self.words.append(self.tokenizer.eos_token_id)

    engine = Speaks(tiny_model, FLOAT32)
    engine.tokenizer._tokenizer.decoder = ByteLevel()
    yield engine
    engine.close()


@pytest.mark.parametrize("begun", BEFORE_THE_ANSWER)
def test_a_tag_that_is_named_or_thought_ends_nothing(begun):
    whole = f"{begun} <ans>7</ans>"
    assert extract_answer(whole) == "7"
    assert cut_answer(f"{whole}. And\nQuestion: 1 + 1?") == whole
    engine = FunctionEngine(lambda *asked: f"{whole}. And more")
    (c,) = engine.generate(["3 + 4?"], Sampling(stop=STOP))[0]
    assert (c.text, c.finish) == (whole, "stop")


@pytest.mark.parametrize("begun", BEFORE_THE_ANSWER)
def test_our_own_loop_goes_on_behind_a_tag_that_is_named(speaker, begun):
    whole = f"{begun} <ans>7</ans>"
    speaker.say(f"{whole}. And more")
    (c,) = speaker.generate(["3 + 4?"], Sampling(stop=STOP, max_tokens=400))[0]
    assert (c.text.strip(), c.finish) == (whole, "stop")


# Servers


class Scripted(BaseHTTPRequestHandler):
    "Answers each request with the next body of `server.bodies`, then with a good one."

    def log_message(self, *_):
        pass

    def do_GET(self):
        model = dict(id="m", object="model", owned_by="x", created=0)
        say(self, dict(object="list", data=[model]))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        body = self.server.bodies.pop(0) if self.server.bodies else good()
        if isinstance(body, bytes):
            return say(self, body, Content_Type="text/html")
        say(self, body)


def good(**changes):
    choice = dict(index=0, text=" It is <ans>7</ans>", finish_reason="stop", logprobs=None)
    usage = dict(prompt_tokens=1, completion_tokens=5, total_tokens=6)
    body = dict(id="x", object="text_completion", created=0, model="m", usage=usage)
    choice |= {k: v for k, v in changes.items() if k in choice}
    body |= {k: v for k, v in changes.items() if k not in choice}
    return dict(choices=[choice]) | body


def without(*names):
    body = good()
    for name in names:
        (body if name in body else body["choices"][0]).pop(name)
    return body


@pytest.fixture
def scripted():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    server.asked, server.bodies, server.daemon_threads = 0, [], True
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at_server(scripted, tiny_model, tmp_path, monkeypatch):
    "Opens an engine on the scripted server, with a journal."
    monkeypatch.setattr("arte.engines.guard.reply.time.sleep", lambda seconds: None)
    url = f"http://127.0.0.1:{scripted.server_port}/v1"

    def open_one(**how):
        server = ServerEngine(tiny_model, url, "m", concurrency=1, **how)
        return Journaled(Journal(tmp_path / "j.db"), server.fingerprint, lambda: server)

    return open_one


def kept(engine):
    return engine.journal.db.execute("SELECT text, finish, tokens FROM completions").fetchall()


NOT_WHOLE = {
    "abort": good(text="Half of", finish_reason="abort"),
    "error": good(text="Half of", finish_reason="error"),
    "null": good(text="Half of", finish_reason=None),
    "unknown": good(text="Half of", finish_reason="something new"),
    "no reason": without("finish_reason"),
    "null text": good(text=None),
    "no text": without("text"),
    "number": good(text=7),
    "choices null": good(choices=None),
    "choice null": good(choices=[None]),
    "error in a 200": dict(error=dict(message="CUDA out of memory", code=500)),
    "old error in a 200": dict(object="error", message="CUDA out of memory", code=500),
    "error beside choices": good(error=dict(message="CUDA out of memory")),
    "a page": b"<html>CUDA out of memory</html>",
    "a list": [],
}


@pytest.mark.model
@pytest.mark.parametrize("name", NOT_WHOLE)
def test_an_answer_that_is_not_whole_is_asked_again(at_server, scripted, name):
    scripted.bodies = [NOT_WHOLE[name]] * 2
    engine = at_server()
    (c,) = engine.generate(["3 + 4?"], Sampling(stop=STOP))[0]
    assert (c.text, c.finish, scripted.asked) == (" It is <ans>7</ans>", "stop", 3)
    assert kept(engine) == [(" It is <ans>7</ans>", "stop", 5)]


@pytest.mark.model
@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_server_that_never_answers_is_quoted_and_nothing_is_kept(at_server, scripted, name):
    scripted.bodies = [NOT_WHOLE[name]] * 9
    engine = at_server(retries=2)
    with pytest.raises(ConnectionError, match="no answer after 3 tries") as e:
        engine.generate(["3 + 4?"], Sampling(stop=STOP))
    if "CUDA out of memory" in str(NOT_WHOLE[name]):
        assert "CUDA out of memory" in str(e.value)
    assert len(engine.journal) == 0


@pytest.mark.model
@pytest.mark.parametrize("usage", [None, {}, dict(completion_tokens=None), dict(total_tokens=6)])
def test_tokens_are_counted_where_the_server_does_not(at_server, usage):
    engine = at_server()
    body = without("usage") if usage is None else good(usage=usage)
    count = len(
        engine.engine().tokenizer(" It is <ans>7</ans>", add_special_tokens=False).input_ids
    )
    scripted_answer(engine, body)
    assert engine.generate(["3 + 4?"], Sampling(stop=STOP))[0][0].tokens == count + 1


def scripted_answer(engine, body):
    "Let the next reply of an engine's server be this one."
    from openai.types import Completion as Reply

    create = engine.engine().client.completions.create
    replies = iter([Reply.construct(**body)])
    engine.engine().client.completions.create = lambda **how: next(replies, None) or create(**how)


# Texts that cannot be encoded


def test_one_bad_text_does_not_take_its_neighbours_with_it(tmp_path):
    prompts = [f"prompt {i}" for i in range(40)]

    def say(prompt, *how):
        return "fine \ud83d" if prompt == "prompt 7" else "fine"

    engine = Journaled(Journal(tmp_path / "j.db"), "f", lambda: FunctionEngine(say, "f"))
    said = [c.text for (c,) in engine.generate(prompts)]
    assert said == ["fine \ufffd" if i == 7 else "fine" for i in range(40)]
    assert (engine.misses, engine.cleaned, len(engine.journal)) == (40, 1, 40)
    again = Journaled(Journal(tmp_path / "j.db"), "f")
    assert [c.text for (c,) in again.generate(prompts)] == said


def test_a_prompt_that_cannot_be_encoded_is_cleaned(tmp_path):
    engine = Journaled(
        Journal(tmp_path / "j.db"), "f", lambda: FunctionEngine(lambda p, *_: p, "f")
    )
    assert engine.generate(["x \udcff"])[0][0].text == "x \ufffd"
    engine = Journaled(engine.journal, "s", lambda: FunctionEngine(None, "s", lambda p, c: [-1.0]))
    assert engine.logprobs(["x \udcff"], [" \ud83d"])[0].tolist() == [-1.0]


def test_rows_are_written_one_by_one_where_a_batch_fails(tmp_path):
    journal = Journal(tmp_path / "j.db")
    rows = []
    for i in range(5):
        text = "bad \ud83d" if i == 2 else "fine"
        key = entry_key("m", str(i))
        rows.append(CompletionRow(key, "m", str(i), "greedy", 0, text, 1, 1, "eos", "Toy"))
    with pytest.raises(ValueError, match="1 of 5 entries can't be written"):
        journal.write("completions", rows)
    assert len(journal) == 4


def gsm8k(folder, *answers):
    file = folder / "gsm8k" / "test.jsonl"
    file.parent.mkdir()
    lines = [json.dumps(dict(question=f"{i} + 0?", answer=a)) for i, a in enumerate(answers)]
    file.write_text("\n".join(lines))
    return folder


def test_half_a_character_in_a_data_set(tmp_path, capsys):
    folder = gsm8k(tmp_path, "So\n#### 0", "Fine \ud83d\n#### 1")
    _, items = load_benchmark("gsm8k", folder)
    assert [i.answer for i in items] == ["0", "1"]
    said = capsys.readouterr().out
    assert "test.jsonl, line 2: 1 texts have half of a character" in said


def test_half_a_character_in_an_instruction_set(tmp_path, capsys):
    row = dict(instruction="Say \ud83d it", input="", output="It \ude00")
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    table, _ = load_instructions("GPT-4-LLM", 1, source=tmp_path)
    assert table.prompt[0] == "Question: Say \ufffd it\nAnswer:"
    assert table.completion[0] == " It \ufffd"
    assert "a.jsonl, line 1: 2 texts have half of a character" in capsys.readouterr().out
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.json").write_text(json.dumps([row]))
    assert load_instructions("GPT-4-LLM", 1, source=tmp_path)[0].equals(table)
    assert "the first: [0].instruction" in capsys.readouterr().out


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path):
    folder = gsm8k(tmp_path, "So\n#### 0")
    file = folder / "gsm8k" / "test.jsonl"
    file.write_bytes(file.read_bytes() + b'\n{"question": "\xff", "answer": "#### 1"}')
    with pytest.raises(ValueError, match=r"test.jsonl, line 2"):
        load_benchmark("gsm8k", folder)


def test_half_a_character_in_a_task_file(tmp_path):
    (tmp_path / "t.yaml").write_text('mine:\n  description: "x \\ud83d"\n')
    with pytest.raises(ValueError, match="(?s)t.yaml: .*half of a character.*line 2"):
        load_tasks(tmp_path / "t.yaml")


# Files whose readers would take the last and drop the rest


@in_files
@pytest.mark.parametrize(
    "name, why", [("answer_twice.csv", "2 columns are called answer"), ("open_quote.csv", "row 2")]
)
def test_a_file_that_is_not_sound_is_refused(name, why):
    with pytest.raises(ValueError, match=why):
        task_from_csv(CASES / "files" / name, "Answer.", "text")


@in_files
def test_doubled_keys_are_refused():
    with pytest.raises(ValueError, match="description is there twice"):
        load_tasks(CASES / "files" / "tasks_twice.yaml")


def test_a_doubled_key_in_json_is_refused(tmp_path):
    folder = gsm8k(tmp_path, "So\n#### 0")
    (folder / "gsm8k/test.jsonl").write_text('{"question": "q", "answer": "#### 1", "answer": "2"}')
    with pytest.raises(ValueError, match="line 1 .*'answer' is there twice"):
        load_benchmark("gsm8k", folder)


DOUBLED = ["(A) red\n(B) blue\n(A) green", "(A) red\n(B) red", "(A) Red.\n(B) red"]


@pytest.mark.parametrize("listed", DOUBLED)
def test_a_question_whose_options_are_not_told_apart_is_set_aside(listed, tmp_path):
    question = f"Which?\nOptions:\n{listed}"
    sieve = Sieve(get_task("penguins_in_a_table"), [], tiny_recipe().elicit)
    sieve.take(tag_question(question, "(A)", 4))
    assert [row["reason"] for row in sieve.aside] == ["doubled option"] and not sieve.kept
    own = tmp_path / "own.csv"
    pd.DataFrame([dict(question=question, answer="(A)")]).to_csv(own, index=False)
    with pytest.raises(ValueError, match="row 1: two options are called"):
        task_from_csv(own, "Choose.", "option")


# Rows that the trainer drops

LONG = "word " * 80


def table(**prompts):
    rows = []
    for arm, texts in prompts.items():
        for i, prompt in enumerate(texts):
            rows.append(dict(arm=arm, prompt=prompt, completion=" So it is.", question_id=str(i)))
    return pd.DataFrame(rows).assign(task="navigate", example="x", finish="eos")


@pytest.fixture
def run(tiny_model, tmp_path):
    recipe = tiny_recipe(distill=dict(max_length=64, batch=2, arms=("original", "arte")))
    with RunDir(tmp_path / "run", recipe) as run:
        for role in ("student", "teacher"):
            run.register(role, tiny_model)
        yield run


@pytest.mark.model
def test_unequal_arms_are_refused_before_any_training(run, monkeypatch):
    from arte.run.parts import PARTS
    from arte.run.stages import train

    examples = table(original=["short"] * 4, arte=["short", LONG, "short", LONG])
    assert check_equal(examples, ["original", "arte"]) == 4
    run.save("examples", examples)
    monkeypatch.setattr(train, "learn", lambda *asked: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"distill.max_length.*2 of 8 examples.*'arte': 2"):
        train.run_distill(run, PARTS)


@pytest.mark.model
def test_arms_are_equal_in_what_the_trainer_keeps(run):
    from functools import partial

    from arte.models.train import sft_trainer
    from arte.run.stages.align import learnable
    from arte.run.stages.train import own_examples

    task = get_task("navigate")
    rows = pd.DataFrame(dict(question_id=list("abcd"), task="navigate", question="Back?"))
    rows = rows.assign(rationale="So <ans>Yes</ans>", finish="stop", target="Yes")
    long = rows.assign(question=["Back?", LONG * 9, "Back?", LONG * 9])
    recipe = replace(run.recipe, distill=replace(run.recipe.distill, max_length=400))
    run.recipe = recipe
    fits = partial(learnable, run, "student")
    tasks = dict(navigate=task)
    examples, dropped = own_examples(recipe, dict(original=rows, arte=long), tasks, [], fits)
    assert check_equal(examples, ["original", "arte"]) == 2
    reasons = pd.concat(dropped).reason.value_counts().to_dict()
    assert reasons == {"no answer within distill.max_length": 2}
    tokenizer, model = load_tokenizer(run.model_folder("student")), None
    for arm in ("original", "arte"):
        model = load_model(run.model_folder("student"))
        records = examples[examples.arm == arm].to_dict("records")
        trainer = sft_trainer(model, tokenizer, records, recipe.distill, folder=run.path("sft"))
        assert len(trainer.train_dataset) == 2
    with pytest.raises(ValueError, match="distill.max_length"):
        own_examples(
            recipe, dict(original=rows, arte=long[long.question != "Back?"]), tasks, [], fits
        )


@pytest.mark.model
def test_all_prompts_too_long(tiny_model, tmp_path):
    from arte.align import dpo_trainer
    from arte.models.train import sft_trainer

    tokenizer, model, r = load_tokenizer(tiny_model), load_model(tiny_model), tiny_recipe()
    settings = replace(r.distill, max_length=16)
    rows = [dict(prompt=LONG, completion=" So.")] * 2
    with pytest.raises(ValueError, match="2 of 2 examples .* max_length = 16"):
        sft_trainer(model, tokenizer, rows, settings, folder=tmp_path)
    with pytest.raises(ValueError, match="1 of 2 examples .* max_length = 16"):
        rows[0] = dict(prompt="a", completion=" b")
        sft_trainer(model, tokenizer, rows, settings, folder=tmp_path)
    pairs = pd.DataFrame([dict(pair="r-1", prompt=LONG, chosen=" a", rejected=" b")])
    with pytest.raises(ValueError, match="all 1 pairs .* align.max_length = 16"):
        dpo_trainer(model, tokenizer, pairs, replace(r.align, max_length=16), folder=tmp_path)


@pytest.mark.model
def test_pairs_that_are_one_text_after_truncation(run):
    from arte.align import dpo_trainer
    from arte.run.stages import prefer

    same = dict(kind="rationale", task="navigate", prompt="Back?", s_chosen=1.0, s_rejected=0.0)
    late = dict(pair="r-1", chosen=f" {LONG} yes", rejected=f" {LONG} no")
    pairs = pd.DataFrame([same | late, same | dict(pair="r-2", chosen=" yes", rejected=" no")])
    run.recipe = replace(run.recipe, align=replace(run.recipe.align, max_length=64))
    kept, dropped, message = prefer._when_cut(run, pairs)
    assert list(kept.pair) == ["r-2"] and list(dropped.id) == ["r-1"]
    assert list(dropped.reason) == ["identical within align.max_length"]
    lengths = (
        r"1 pair is equal .*align.max_length = 64 tokens: their prompts have \d+ tokens, and they"
    )
    assert re.match(lengths + r" differ first at token \d+$", message)
    tokenizer, model = (
        load_tokenizer(run.model_folder("teacher")),
        load_model(run.model_folder("teacher")),
    )
    trainer = dpo_trainer(model, tokenizer, pairs, run.recipe.align, folder=run.path("dpo"))
    assert len(trainer.train_dataset) == 1


# Tokenizers and templates


@pytest.mark.model
def test_a_tokenizer_that_ends_every_text(tiny_model, tmp_path):
    "The prompt is what it is without the token, in the engine and in training."
    plain = TransformersEngine(tiny_model, FLOAT32)
    ending = tmp_path / "ending"
    tokenizer = load_tokenizer(tiny_model)
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    bos = tokenizer("").input_ids
    form = f"{tokenizer.bos_token} $A {end[0]}" if bos else f"$A {end[0]}"
    specials = [end, (tokenizer.bos_token, tokenizer.bos_token_id)] if bos else [end]
    tokenizer._tokenizer.post_processor = TemplateProcessing(form, special_tokens=specials)
    load_model(tiny_model).save_pretrained(ending)
    tokenizer.save_pretrained(ending)
    ended = TransformersEngine(ending, FLOAT32)
    assert ended.tokenizer("a").input_ids[-1] == end[1]
    sampling = Sampling(max_tokens=8)
    prompts = ["3 + 4 is", "Answer:"]
    texts = [c[0].text for c in plain.generate(prompts, sampling)]
    assert [c[0].text for c in ended.generate(prompts, sampling)] == texts and all(texts)
    assert ended.first_tokens(prompts, 3) == plain.first_tokens(prompts, 3)

    from arte.models.train import answer_tokens

    asked = ("3 + 4 is", [(" 7", "eos"), (" 7 7", "repeat")])
    assert answer_tokens(ended.tokenizer, *asked) == answer_tokens(plain.tokenizer, *asked)


PARTS_ONLY = (
    "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}Now:"
)


@pytest.mark.model
@pytest.mark.parametrize(
    "template, why",
    [(PARTS_ONLY, "loses or changes the prompt"), ("{{ raise_exception('No!') }}", "No!")],
)
def test_a_template_that_loses_the_prompt_or_raises_is_refused(tiny_model, template, why):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=why):
        open_template(tiny_model, replace(FLOAT32, chat="on"), tokenizer)


# Engines that break off or die


@pytest.mark.parametrize("text, finish", [("Half of", "abort"), ("x", None), (None, "eos")])
def test_no_engine_s_half_answer_is_kept(tmp_path, text, finish):
    calls = []

    def generate(prompts, sampling):
        calls.append(len(prompts))
        bad = Completion(text, 1, 1, finish)
        return [
            [bad if "2" in p and len(calls) < 3 else Completion(p, 1, 1, "eos")] for p in prompts
        ]

    half = SimpleNamespace(fingerprint="h", generate=generate)
    engine = Journaled(Journal(tmp_path / "j.db"), "h", lambda: half)
    assert [c.text for (c,) in engine.generate(["1", "2", "3"])] == ["1", "2", "3"]
    assert calls == [3, 1, 1] and len(engine.journal) == 3
    calls.clear()
    with pytest.raises(ConnectionError, match="broke off its answers to 1 prompts, 3 times"):
        half.generate = lambda prompts, sampling: [
            [Completion(p, 1, 1, "abort" if p == "22" else "eos")] for p in prompts
        ]
        engine.generate(["21", "22", "23"])
    assert len(engine.journal) == 5


BEGINS = """
import multiprocessing, os, sys, time
from arte.engines.guard.endings import engine_dies_with_us

if __name__ == "__main__":
    from vllm.v1.engine.core import EngineCoreProc

    with engine_dies_with_us():
        begin, note = EngineCoreProc.run_engine_core, dict(note=sys.argv[2])
        multiprocessing.get_context(sys.argv[1]).Process(target=begin, kwargs=note).start()
    assert "_begin_engine" not in repr(EngineCoreProc.run_engine_core)
    time.sleep(60)
"""
CORE = """
import os, time


class EngineCoreProc:
    @staticmethod
    def run_engine_core(note):
        with open(note, "w") as f:
            f.write(str(os.getpid()))
        time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends orphans")
@pytest.mark.parametrize("way", ["spawn", "fork"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_s_process_dies_with_the_run(tmp_path, way, sign):
    "A stand-in for vLLM, whose own process outlives its parent otherwise."
    core = tmp_path / "vllm/v1/engine"
    core.mkdir(parents=True)
    for folder in (core, *core.parents[:2]):
        (folder / "__init__.py").touch()
    (core / "core.py").write_text(CORE)
    script, note = tmp_path / "begins.py", tmp_path / "pid"
    script.write_text(BEGINS)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    env = os.environ | dict(PYTHONPATH=paths)
    parent = subprocess.Popen([sys.executable, str(script), way, str(note)], env=env)
    until(lambda: note.is_file() and note.read_text())
    child = int(note.read_text())
    assert is_running(child)
    parent.send_signal(sign)
    parent.wait(20)
    until(lambda: not is_running(child))


def until(true, seconds=40):
    "Wait until something is true."
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_dead_engine_says_what_to_do_and_what_is_kept(tmp_path):
    "As vLLM's engine dies under load: the chunks before are in the journal."

    class EngineDeadError(Exception):
        pass

    def generate(prompts, sampling):
        with death_explained(f"while it answered {len(prompts)} prompts"):
            if "5" in prompts:
                raise EngineDeadError("EngineCore encountered an issue.")
            return [[Completion(p, 1, 1, "eos")] for p in prompts]

    dying = SimpleNamespace(fingerprint="d", generate=generate)
    engine = Journaled(Journal(tmp_path / "j.db"), "d", lambda: dying, chunk=2)
    with pytest.raises(ChildProcessError, match="died while it answered 1 prompts") as e:
        engine.generate(list("12345"))
    assert "run the same command again" in message(e.value) and "\n" not in message(e.value)
    assert isinstance(e.value, USER_ERRORS) and len(engine.journal) == 4
    assert "own lines above say why" in message(e.value) and "memory" not in message(e.value)


@pytest.mark.parametrize(
    "error, cause",
    [
        (RuntimeError("CPU Generator does not use offset"), None),
        (AssertionError(), None),
        (RuntimeError("RPC call to execute_model timed out."), "did not answer in time"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "Memory was too small"),
        (OSError(12, "Cannot allocate memory"), "Memory was too small"),
        (MemoryError(), "Memory was too small"),
        (RuntimeError("Failed core proc(s): {'EngineCore': -9}"), "killed its process"),
        (RuntimeError("Failed core proc(s): {'EngineCore': 1}"), None),
    ],
)
def test_only_a_known_cause_of_a_death_is_named(error, cause):
    "vLLM's own words are quoted; memory is blamed only where they speak of it."
    with pytest.raises(ChildProcessError) as e, death_explained("while it opened small"):
        raise error
    said = message(e.value)
    assert type(error).__name__ in said and str(error) in said and "in the journal" in said
    assert cause in said if cause else "emory" not in said and "busy" not in said
