"The server engine: against a real `vllm serve`, and against a server with bad days."
import json, os, random, signal, socket, subprocess, sys, threading, time, urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import numpy as np
import pytest

from arte.core.engine import Sampling, VllmEngine
from arte.core.journal import Journal, Journaled
from arte.core.models import resolve_model
from arte.core.nano import make_items
from arte.core.prompts import student_prompt
from arte.core.server import ServerEngine
from arte.core.tasks import get_task

STOP = Sampling(stop=("</ans>",), max_tokens=24)
PROMPTS = [student_prompt(get_task(t), [], i.question) for t in ("boolean_expressions", "object_counting") for i in make_items(t, 6, seed=1)]
FAULTS = (429, 500, "slow", "half", "empty")


class Unreliable(BaseHTTPRequestHandler):
    "Answers with the prompt's last token; three of ten requests go wrong."
    def log_message(self, *_): pass

    def say(self, body, status=200, **headers):
        self.send_response(status)
        for k, v in (dict(Content_Type="application/json", Content_Length=str(len(body))) | headers).items(): self.send_header(k.replace("_", "-"), v)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self): self.say(json.dumps(dict(object="list", data=[dict(id="m", object="model", created=0, owned_by="x")])).encode())

    def do_POST(self):
        ids = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        with self.server.lock:
            fault = self.server.chance.choice(FAULTS) if self.server.chance.random() < .3 else None
            self.server.seen.append(fault)
            self.server.authorization.add(self.headers["Authorization"])
        if fault == "slow": time.sleep(5)   # the client has given up by then
        if fault == "half": return self.say(b'{"id": "x", "choices": [{"text": "ha')
        if isinstance(fault, int): return self.say(b"{}", fault, Retry_After="0.1")
        choices = [] if fault == "empty" else [dict(index=0, text=f" <ans>{ids[-1]}</ans>", finish_reason="stop", logprobs=None)]
        try: self.say(json.dumps(dict(id="x", object="text_completion", created=0, model="m", choices=choices, usage=dict(prompt_tokens=1, completion_tokens=3, total_tokens=4))).encode())
        except BrokenPipeError: pass


@contextmanager
def unreliable():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    server.chance, server.lock, server.seen, server.authorization = random.Random(0), threading.Lock(), [], set()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield server, f"http://127.0.0.1:{server.server_port}/v1"
    finally: server.shutdown(); server.server_close()


@pytest.fixture(scope="module")
def folder(): return resolve_model("nano-student")


def test_bad_days(folder, tmp_path, monkeypatch):
    "All answers arrive, each once, and the key stays out of everything that is written."
    monkeypatch.setenv("OPENAI_API_KEY", key := "sk-never-to-be-seen")
    prompts = [f"Question {i}" for i in range(150)]
    with unreliable() as (server, url):
        make = lambda: ServerEngine(folder, url, "m", concurrency=16, timeout=3, retries=8)
        engine = Journaled(Journal(tmp_path/"journal.db"), ServerEngine(folder, url, "m").fingerprint, make, chunk=40)
        answers = engine.generate(prompts, STOP)
        last = [x[-1] for x in engine.inner.tokenizer(prompts).input_ids]
        assert [a[0].text for a in answers] == [f" <ans>{t}</ans>" for t in last]
        asked = len(server.seen)
        assert set(server.seen) == {None, *FAULTS}
        assert server.seen.count(None) == len(prompts)      # no whole answer was asked for twice
        assert engine.generate(prompts, STOP) == answers and len(server.seen) == asked
        assert server.authorization == {f"Bearer {key}"}
        engine.journal.close()
    assert not any(key.encode() in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


def test_dead_server(folder, tmp_path, monkeypatch):
    "Every answer that the server gave before it died is in the journal, and the message says what to do."
    answer, given = Unreliable.do_POST, []
    def dies_after_25(self):
        with self.server.lock: given.append(len(given) < 25)
        if given[-1]: answer(self)
        else: self.say(b"{}", 500)
    monkeypatch.setattr(Unreliable, "do_POST", dies_after_25)
    with unreliable() as (server, url):
        server.chance.random = lambda: 1.     # until then it has no bad days
        engine = Journaled(Journal(tmp_path/"journal.db"), ServerEngine(folder, url, "m").fingerprint, lambda: ServerEngine(folder, url, "m", concurrency=1, retries=0), chunk=10)
        with pytest.raises(ConnectionError, match="run the same command again"): engine.generate([f"Question {i}" for i in range(40)], STOP)
    assert len(engine.journal) == 25


def test_bad_key(folder, monkeypatch):
    monkeypatch.setattr(Unreliable, "do_GET", lambda self: self.say(b"{}", 401))
    with unreliable() as (_, url), pytest.raises(PermissionError, match="OPENAI_API_KEY"): ServerEngine(folder, url, "m")


@pytest.fixture(scope="module")
def served(folder):
    "A real vLLM server with SmolLM2, in fp32."
    if not find_spec("vllm"): pytest.skip("vLLM isn't installed")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    cpus = sorted(os.sched_getaffinity(0))
    env = os.environ | dict(VLLM_CPU_KVCACHE_SPACE="1", OMP_NUM_THREADS=str(len(cpus)), VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, cpus)), VLLM_NO_USAGE_STATS="1")
    # `vllm serve` asks for a distribution named vllm, and here it is vllm-cpu: the module behind it does not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "nano-student", "--dtype", "float32",
               "--max-model-len", "2048", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(300):
            if server.poll() is not None: pytest.fail(f"vllm serve ended with {server.returncode}")
            try: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1); break
            except OSError: time.sleep(1)
        else: pytest.fail("vllm serve did not come up")
        yield ServerEngine(folder, f"http://127.0.0.1:{port}/v1", "nano-student", max_model_len=2048)
    finally:
        if server.poll() is None: os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def test_same_as_in_process(served, folder):
    "Greedy answers, draws, log-probabilities and first tokens of the server are those of the engine in the process."
    answers, draws = served.generate(PROMPTS, STOP), served.generate(PROMPTS[:3], Sampling(temperature=1, n=2, max_tokens=12))
    scores, firsts = served.logprobs(PROMPTS, [" <ans>True</ans>"]*len(PROMPTS)), served.first_tokens(PROMPTS[:4], 5)
    local = VllmEngine(folder, "float32", max_model_len=2048)
    try:
        assert answers == local.generate(PROMPTS, STOP)
        assert draws == local.generate(PROMPTS[:3], Sampling(temperature=1, n=2, max_tokens=12))
        for a, b in zip(scores, local.logprobs(PROMPTS, [" <ans>True</ans>"]*len(PROMPTS))): np.testing.assert_allclose(a, b, atol=1e-3)
        for a, b in zip(firsts, local.first_tokens(PROMPTS[:4], 5)):
            assert [(x.text, x.joins) for x in a] == [(x.text, x.joins) for x in b]
            np.testing.assert_allclose([x.logprob for x in a], [x.logprob for x in b], atol=1e-3)
    finally: local.close()
