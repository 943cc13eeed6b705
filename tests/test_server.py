"The server engine: against a real `vllm serve`, and against a server with bad days."

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from tokenizers.decoders import ByteLevel

from arte.engines.protocol import Sampling
from arte.engines.transformers import TransformersEngine
from arte.engines.vllm import VllmEngine
from arte.engines.journal import Journal
from arte.engines.journaled import Journaled
from arte.models.folders import fingerprint, resolve_model
from arte.models.load import ModelOptions, load_tokenizer
from arte.data.generated.tasks import make_items
from arte.core.prompts import student_prompt
from arte.core.fields import RecipeError
from arte.core.recipes import load_recipe
from arte.run import engine
from arte.engines.server import ServerEngine
from arte.core.tasks import get_task
from arte.run.report import write_report
from support.adapters import save_adapter
from support.loopback import say
from support.world import World, answer

STOP = Sampling(stop=("</ans>",), max_tokens=24)
PROMPTS = [
    student_prompt(get_task(t), [], i.question)
    for t in ("boolean_expressions", "object_counting")
    for i in make_items(t, 6, seed=1)
]
LINEAR = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
FAULTS = (429, 500, "slow", "half", "empty")


class Unreliable(BaseHTTPRequestHandler):
    "Answers with the prompt's last token; three of ten requests go wrong."

    def log_message(self, *_):
        pass

    def do_GET(self):
        model = dict(id=self.server.model, object="model", created=0, owned_by="x")
        say(self, dict(object="list", data=[model]))

    def do_POST(self):
        ids = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        with self.server.lock:
            fault = (
                self.server.chance.choice(self.server.faults)
                if self.server.chance.random() < 0.3
                else None
            )
            self.server.seen.append(fault)
            self.server.authorization.add(self.headers["Authorization"])
        if fault == "slow":
            time.sleep(5)  # the client has given up by then
        if fault == "half":
            half = b'{"id": "x", "choices": [{"text": "ha'
            return say(self, half, Content_Type="application/json")
        if isinstance(fault, int):
            return say(self, {}, fault, Retry_After="0.1")
        choices = (
            []
            if fault == "empty"
            else [dict(index=0, text=self.server.answer(ids), finish_reason="stop", logprobs=None)]
        )
        try:
            usage = dict(prompt_tokens=1, completion_tokens=3, total_tokens=4)
            about = dict(id="x", object="text_completion", created=0, model="m")
            say(self, about | dict(choices=choices, usage=usage))
        except BrokenPipeError:
            pass


@contextmanager
def unreliable():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    server.chance, server.lock, server.seen, server.authorization, server.answer = (
        random.Random(0),
        threading.Lock(),
        [],
        set(),
        lambda ids: f" <ans>{ids[-1]}</ans>",
    )
    server.model, server.faults = "m", FAULTS
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def folder():
    return resolve_model("nano-student")


def test_bad_days(folder, tmp_path, monkeypatch):
    "All answers arrive, each once, and the key stays out of everything that is written."
    monkeypatch.setenv("OPENAI_API_KEY", key := "sk-never-to-be-seen")
    prompts = [f"Question {i}" for i in range(150)]
    with unreliable() as (server, url):
        make = partial(ServerEngine, folder, url, "m", concurrency=16, timeout=3, retries=8)
        engine = Journaled(
            Journal(tmp_path / "journal.db"),
            ServerEngine(folder, url, "m").fingerprint,
            make,
            chunk=40,
        )
        answers = engine.generate(prompts, STOP)
        last = [x[-1] for x in engine.inner.tokenizer(prompts).input_ids]
        assert [a[0].text for a in answers] == [f" <ans>{t}</ans>" for t in last]
        asked = len(server.seen)
        assert set(server.seen) == {None, *FAULTS}
        assert server.seen.count(None) == len(prompts)  # no whole answer was asked for twice
        assert engine.generate(prompts, STOP) == answers and len(server.seen) == asked
        assert server.authorization == {f"Bearer {key}"}
        engine.journal.close()
    assert not any(key.encode() in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


def test_dead_server(folder, tmp_path, monkeypatch):
    "Every answer before the server's death is in the journal; the message says what to do."
    answer, given = Unreliable.do_POST, []

    def dies_after_25(self):
        with self.server.lock:
            given.append(len(given) < 25)
        if given[-1]:
            answer(self)
        else:
            say(self, {}, 500)

    monkeypatch.setattr(Unreliable, "do_POST", dies_after_25)
    with unreliable() as (server, url):
        server.chance.random = lambda: 1.0  # until then it has no bad days
        engine = Journaled(
            Journal(tmp_path / "journal.db"),
            ServerEngine(folder, url, "m").fingerprint,
            lambda: ServerEngine(folder, url, "m", concurrency=1, retries=0),
            chunk=10,
        )
        with pytest.raises(ConnectionError, match="run the same command again"):
            engine.generate([f"Question {i}" for i in range(40)], STOP)
    assert len(engine.journal) == 25


def test_bad_key(folder, monkeypatch):
    monkeypatch.setattr(Unreliable, "do_GET", lambda self: say(self, {}, 401))
    with unreliable() as (_, url), pytest.raises(PermissionError, match="OPENAI_API_KEY"):
        ServerEngine(folder, url, "m")


def test_retry_after(folder, monkeypatch):
    "The client waits as long as the server asks: no less, and no more, as it would by itself."
    answer, asked = Unreliable.do_POST, []

    def busy(self):
        with self.server.lock:
            asked.append(time.monotonic())
        if len(asked) in (1, 3):
            say(self, {}, 429, Retry_After="1.5" if len(asked) == 1 else "0.05")
        else:
            answer(self)

    monkeypatch.setattr(Unreliable, "do_POST", busy)
    with unreliable() as (server, url):
        server.chance.random = lambda: 1.0
        engine = ServerEngine(folder, url, "m", concurrency=1)
        for i in range(2):
            engine.generate([f"Question {i}"], STOP)
    assert 1.5 <= asked[1] - asked[0] < 5 and 0.05 <= asked[3] - asked[2] < 0.4


def test_no_server_at_all(folder):
    with pytest.raises(
        ConnectionError,
        match="http://127.0.0.1:9/v1 gives no answer after 1 tries .*run the same command again",
    ):
        ServerEngine(folder, "http://127.0.0.1:9/v1", "m", retries=0)


def test_key_in_the_address():
    with pytest.raises(RecipeError, match="engine.url: .*OPENAI_API_KEY") as e:
        load_recipe("nano", **{"engine.url": "https://me:sk-never-to-be-seen@example.com/v1"})
    assert "never" not in str(e.value)


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_sends_the_key_back(folder, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", key := "sk-never-to-be-seen")
    monkeypatch.setattr(
        Unreliable,
        "do_POST",
        lambda self: say(
            self, dict(error=dict(message=f"who is {self.headers['Authorization']}?")), status
        ),
    )
    with unreliable() as (_, url), pytest.raises((ValueError, ConnectionError)) as e:
        ServerEngine(folder, url, "m", retries=0).generate(["a"], STOP)
    told = "".join(traceback.format_exception(e.value))
    assert "who is Bearer (the key)?" in told and key not in told


def test_whole_run(tiny_model, tmp_path, monkeypatch, capfd, caplog):
    """With a student at an unreliable server the tables are those of a run without one, and the key
    is nowhere: not in the run, not in what is printed or logged."""
    monkeypatch.setenv("OPENAI_API_KEY", key := "sk-never-to-be-seen")
    caplog.set_level("DEBUG")
    opened, world = engine.live_engine, World(monkeypatch, tiny_model, tmp_path)
    scripted, _ = world.run({})
    tokenizer, name = load_tokenizer(world.models["student"]), fingerprint(world.models["student"])
    scripts = engine.live_engine

    def open_student_there(run, role, *how):
        return (opened if role == "student" else scripts)(run, role, *how)

    monkeypatch.setattr(engine, "live_engine", open_student_there)
    with unreliable() as (server, url):
        server.model, server.answer = (
            str(world.models["student"]),
            lambda ids: answer(
                name, ByteLevel().decode(tokenizer.convert_ids_to_tokens(ids)), None, 0
            ),
        )
        server.faults = [f for f in FAULTS if f != "slow"]  # waiting is tested above
        done, _ = world.run(
            {
                "engine.kind": "server",
                "engine.url": url,
                "engine.model": "student",
                "engine.concurrency": 16,
                "engine.timeout": 60.0,
                "engine.retries": 8,
            }
        )
        write_report(done.folder)
        assert {*server.faults, None} == set(server.seen) and server.authorization == {
            f"Bearer {key}"
        }
    for table in ("responses", "scores", "heldout", "results"):
        a, b = (
            run.table(table).drop(columns="tokens", errors="ignore") for run in (scripted, done)
        )  # the two count tokens differently
        pd.testing.assert_frame_equal(a, b)
    engines = dict(
        done.journal.db.execute(
            "SELECT model || ' ' || engine, count(*) FROM completions GROUP BY 1"
        ).fetchall()
    )
    assert engines[f"{name} ServerEngine"] == server.seen.count(None)  # each once
    out, err = capfd.readouterr()
    assert "HTTP Request" in caplog.text and key not in out + err + caplog.text
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and key.encode() in f.read_bytes()]


@pytest.fixture(scope="module")
def served(folder):
    "A real vLLM server with SmolLM2 in float32, which may open adapters."
    if not find_spec("vllm"):
        pytest.skip("vLLM isn't installed")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    cpus = sorted(os.sched_getaffinity(0))
    env = os.environ | dict(
        VLLM_CPU_KVCACHE_SPACE="1",
        OMP_NUM_THREADS=str(len(cpus)),
        VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, cpus)),
        VLLM_NO_USAGE_STATS="1",
        VLLM_ALLOW_RUNTIME_LORA_UPDATING="1",
    )
    # `vllm serve` asks for a distribution named vllm, here it is vllm-cpu; its module does not ask
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--served-model-name",
        "nano-student",
        "--dtype",
        "float32",
        "--max-model-len",
        "2048",
        "--enforce-eager",
        "--enable-lora",
        "--max-lora-rank",
        "64",
        "--lora-target-modules",
        *LINEAR,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            if server.poll() is not None:
                pytest.fail(f"vllm serve ended with {server.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail("vllm serve did not come up")
        yield ServerEngine(
            folder, f"http://127.0.0.1:{port}/v1", "nano-student", max_model_len=2048
        )
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # a busy machine: nothing of it is left behind
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.mark.long
def test_same_as_in_process(served, folder):
    "The server's answers, draws, log-probabilities and first tokens are those of our engine."
    answers, draws = (
        served.generate(PROMPTS, STOP),
        served.generate(PROMPTS[:3], Sampling(temperature=1, n=2, max_tokens=12)),
    )
    scores, firsts = (
        served.logprobs(PROMPTS, [" <ans>True</ans>"] * len(PROMPTS)),
        served.first_tokens(PROMPTS[:4], 5),
    )
    local = VllmEngine(folder, ModelOptions("float32"), max_model_len=2048)
    try:
        assert answers == local.generate(PROMPTS, STOP)
        assert draws == local.generate(PROMPTS[:3], Sampling(temperature=1, n=2, max_tokens=12))
        for a, b in zip(scores, local.logprobs(PROMPTS, [" <ans>True</ans>"] * len(PROMPTS))):
            np.testing.assert_allclose(a, b, atol=1e-3)
        for a, b in zip(firsts, local.first_tokens(PROMPTS[:4], 5)):
            assert [(x.text, x.joins) for x in a] == [(x.text, x.joins) for x in b]
            np.testing.assert_allclose([x.logprob for x in a], [x.logprob for x in b], atol=1e-3)
    finally:
        local.close()


@pytest.mark.long
def test_an_adapter_beside_the_served_model(served, folder, tmp_path):
    "The server opens it on its model, once, and goes on serving the model without it."
    adapter = save_adapter(folder, tmp_path / "adapter", std=0.02)
    options = ModelOptions("float32", adapter=str(adapter))
    texts = [" <ans>True</ans>"] * len(PROMPTS)
    before = served.generate(PROMPTS, STOP)
    aligned, again = (
        ServerEngine(folder, served.url, "nano-student", max_model_len=2048, options=options)
        for _ in range(2)
    )
    assert aligned.model == again.model != "nano-student"
    answers, scores = aligned.generate(PROMPTS, STOP), aligned.logprobs(PROMPTS, texts)
    firsts = aligned.first_tokens(PROMPTS[:4], 5)
    assert served.generate(PROMPTS, STOP) == before != answers
    local = TransformersEngine(folder, options, max_model_len=2048)
    try:
        assert answers == local.generate(PROMPTS, STOP)
        for a, b in zip(scores, local.logprobs(PROMPTS, texts)):
            np.testing.assert_allclose(a, b, atol=2e-4)
        for a, b in zip(firsts, local.first_tokens(PROMPTS[:4], 5)):
            assert [(x.text, x.joins) for x in a] == [(x.text, x.joins) for x in b]
    finally:
        local.close()


@pytest.mark.long
def test_an_adapter_that_the_server_cannot_open(served, folder, tmp_path):
    adapter = save_adapter(folder, tmp_path / "adapter", std=0.02, r=128)
    options = ModelOptions("float32", adapter=str(adapter))
    with pytest.raises(LookupError, match="cannot open the adapter .*--max-lora-rank 128"):
        ServerEngine(folder, served.url, "nano-student", options=options)
