"""Two replicas of a model on the cores of this machine: what they say, and what is left when one of
them, or all, are killed.

A tiny model here; the real SmolLM2 over vLLM, and more kinds of kills, with ARTE_SLOW=1 (`make
slow`)."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from arte.engines import ray as replicas
from arte.engines.protocol import Sampling
from arte.engines.transformers import TransformersEngine
from arte.engines.vllm import VllmEngine
from arte.engines.open import EngineKind, open_model
from arte.engines.journal import Journal
from arte.engines.journaled import Journaled
from arte.core.settings.machine import EngineSettings, PerReplica
from arte.core.fields import RecipeError
from arte.models.folders import resolve_model
from arte.models.load import ModelOptions
from arte.engines.replica import Job
from arte.engines.ray import RayEngine
from arte.run.engine import live_engine
from arte.run.rundir import RunDir
from support.adapters import save_adapter
from support.tiny import tiny_recipe

SLOW, ON_CPU = bool(os.environ.get("ARTE_SLOW")), PerReplica(gpus=0)
PROMPTS = [
    f"Task Description: {t}\n\nQuestion: {q}\nAnswer:"
    for t in ("True", "False", "Let's think")
    for q in range(40)
]
FLOAT32 = ModelOptions("float32")
SAMPLING = Sampling(max_tokens=40, stop=("</ans>",))
REAL = [
    "The capital of France is",
    "Question: What is 2 + 3?\nAnswer:",
    "Q: not ( True ) and ( True ) is\nA: Let's think step by step.",
    "List the days of the week: Monday,",
]

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray isn't installed")
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM isn't installed")
slow = pytest.mark.skipif(not SLOW, reason="takes minutes: ARTE_SLOW=1")


def open_two(folder, engine=TransformersEngine, **settings):
    return RayEngine(folder, partial(engine, folder, FLOAT32), 2, ON_CPU, **settings)


def below():
    "The processes that this one has started, and those below them."
    psutil = pytest.importorskip("psutil")
    return psutil.Process().children(recursive=True)


def all_gone(processes, seconds=20):
    import psutil

    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.fixture(scope="module")
def engine(tiny_model):
    "Two replicas; the first test starts Ray, and the last one finds nothing left of it."
    before = {p.pid for p in below()}
    engine = open_two(tiny_model, batch=8)
    begun = [p for p in below() if p.pid not in before]
    assert len(begun) > 2
    yield engine
    engine.close()
    assert all_gone(begun), "Ray left processes behind"


@pytest.fixture(scope="module")
def alone(tiny_model):
    engine = TransformersEngine(tiny_model, FLOAT32)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(alone):
    return alone.generate(PROMPTS, SAMPLING)


def entries(journal):
    return sorted(
        journal.db.execute(
            "SELECT key, prompt, text, tokens, prompt_tokens, finish FROM completions"
        )
    )


@needs_ray
def test_a_model_that_does_not_open(tiny_model, tmp_path):
    "On a cluster that was there before, and stays."
    import ray
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").write_bytes(b"half a file")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(
            ChildProcessError, match=r"A replica could not open .*damaged \(\w+: .*"
        ) as e:
            RayEngine(folder, partial(TransformersEngine, folder), 1, ON_CPU)
        assert "logs" in str(e.value) and len(str(e.value)) < 600
        assert ray.is_initialized(), "Ray was ended by an engine that had not started it"
    finally:
        ray.shutdown()


@needs_ray
def test_replicas_with_an_adapter(tiny_model, tmp_path):
    "Each opens it beside its own weights."
    adapter = save_adapter(tiny_model, tmp_path / "adapter", std=0.05)
    options = ModelOptions("float32", adapter=str(adapter))
    in_replica = partial(TransformersEngine, tiny_model, options)
    two = RayEngine(tiny_model, in_replica, 2, ON_CPU, adapter=str(adapter))
    answers, scores = two.generate(PROMPTS, SAMPLING), two.logprobs(PROMPTS, PROMPTS)
    two.close()
    one, plain = in_replica(), TransformersEngine(tiny_model, FLOAT32)
    assert two.fingerprint == one.fingerprint != plain.fingerprint
    assert answers == one.generate(PROMPTS, SAMPLING) != plain.generate(PROMPTS, SAMPLING)
    for a, b in zip(scores, one.logprobs(PROMPTS, PROMPTS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.long
@needs_ray
@needs_vllm
def test_a_real_model_with_an_adapter_over_vllm(tmp_path):
    "As a recipe opens it: Ray, and vLLM in the replica, against transformers with PEFT."
    student = resolve_model("nano-student")
    adapter = save_adapter(student, tmp_path / "adapter", std=0.02)
    options = ModelOptions("float32", adapter=str(adapter))
    there = open_model(student, options, EngineSettings(kind="ray", per_replica=ON_CPU))
    answers, scores = there.generate(REAL, SAMPLING), there.logprobs(REAL, REAL)
    there.close()
    here = TransformersEngine(student, options)
    assert answers == here.generate(REAL, SAMPLING)
    for a, b in zip(scores, here.logprobs(REAL, REAL), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    here.close()


@needs_ray
def test_same_as_one_engine(engine, alone, expected):
    assert engine.generate(PROMPTS, SAMPLING) == expected
    drawn = Sampling(1.0, max_tokens=8, n=5, seed=3)
    assert engine.generate(PROMPTS[:3], drawn) == alone.generate(PROMPTS[:3], drawn)
    texts = [" <ans>True</ans>", " False"] * 3
    for a, b in zip(
        engine.logprobs(PROMPTS[:6], texts), alone.logprobs(PROMPTS[:6], texts), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(
        engine.first_tokens(PROMPTS[:3], 4), alone.first_tokens(PROMPTS[:3], 4), strict=True
    ):
        assert [(t.text, t.joins) for t in a] == [(t.text, t.joins) for t in b]
    assert engine.generate([], SAMPLING) == []


def killed_in_the_middle(engine, path, prompts, sampling):
    "Fill a journal while a replica is killed; return it, the answers, and their order."
    arriving, came = engine.arriving, []

    def and_kill(some, sampling):
        for i, answer in arriving(some, sampling):
            came.append(i)
            yield i, answer
            if len(came) == 10:
                os.kill(engine.pids[0], signal.SIGKILL)

    engine.arriving = and_kill
    journaled = Journaled(Journal(path), engine.fingerprint, lambda: engine, chunk=4)
    try:
        answers = journaled.generate(prompts, sampling)
    finally:
        del engine.arriving
    assert journaled.misses == len(prompts)
    return journaled.journal, answers, came


@needs_ray
def test_a_replica_is_killed(engine, alone, expected, tmp_path, capfd):
    "All answers are there, none came or was written twice, and they are those of one engine."
    journal, answers, came = killed_in_the_middle(
        engine, tmp_path / "journal.db", PROMPTS, SAMPLING
    )
    assert answers == expected
    assert sorted(came) == list(range(len(PROMPTS)))
    one = Journaled(Journal(tmp_path / "one.db"), alone.fingerprint, lambda: alone)
    one.generate(PROMPTS, SAMPLING)
    assert entries(journal) == entries(one.journal)
    assert (
        not os.path.exists(f"/proc/{engine.pids[0]}")
        or "ray" not in open(f"/proc/{engine.pids[0]}/cmdline").read()
    )
    assert "Traceback" not in capfd.readouterr().err


@needs_ray
def test_an_error_in_a_replica(engine, tmp_path):
    "It ends the call with its own message; what came before is in the journal; replicas work on."
    journaled = Journaled(
        Journal(tmp_path / "journal.db"), engine.fingerprint, lambda: engine, chunk=4
    )
    with pytest.raises(ValueError, match="Use fewer or shorter examples"):
        journaled.generate(PROMPTS + ["Z" + " True" * 3000], SAMPLING)
    assert 0 < len(journaled.journal) < len(PROMPTS)
    assert len(engine.generate(PROMPTS[:2], SAMPLING)) == 2


@needs_ray
def test_no_room(engine, tiny_model):
    with pytest.raises(ValueError, match="gpus: 0 to use CPU cores"):
        RayEngine(tiny_model, None, 2, PerReplica(gpus=1))
    with pytest.raises(ValueError, match="Lower engine.replicas"):
        RayEngine(tiny_model, None, 10_000, ON_CPU)


@needs_ray
def test_room_that_is_taken(engine, tiny_model, monkeypatch):
    monkeypatch.setattr(replicas, "PATIENCE", 0.5)
    with pytest.raises(
        TimeoutError, match="0 of the cluster's .* are free: something else runs on it"
    ):
        RayEngine(tiny_model, None, 1, ON_CPU)


def test_without_ray(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "arte-distill\[ray\]"'):
        RayEngine(tiny_model, None)


@pytest.mark.parametrize(
    "engine, field, mend",
    [
        (
            dict(kind="ray", replicas=4, per_replica=dict(gpus=2)),
            "engine.per_replica.gpus",
            "tensor_parallel: 2",
        ),
        (
            dict(kind="ray", per_replica=dict(gpus=2, tensor_parallel=2, pipeline_parallel=2)),
            "engine.per_replica.gpus",
            "gpus: 4",
        ),
        (dict(kind="vllm", replicas=2), "engine.replicas", "kind: ray"),
        (
            dict(kind="transformers", per_replica=dict(gpus=2, tensor_parallel=2)),
            "engine.per_replica",
            "kind: vllm",
        ),
        (dict(kind="ray", per_replica=dict(gpu=2)), "engine.per_replica.gpu", "gpus"),
        (dict(kind="ray", replicas=0), "engine.replicas", "at least 1"),
    ],
)
def test_refused_recipes(engine, field, mend):
    with pytest.raises(RecipeError) as e:
        tiny_recipe(engine=engine)
    assert e.value.field == field and mend in str(e.value)


def test_the_recipe_reaches_the_engine(tiny_model, tmp_path):
    """The teacher gets the recipe's replicas, a student one GPU each and as many replicas as there
    are GPUs; vLLM alone gets the same."""
    opened = []

    def note(folder, options, settings):
        opened.append((settings.kind, settings.replicas, settings.per_replica, options))

    kinds = tuple(EngineKind(name, note) for name in ("ray", "vllm"))
    each, one = PerReplica(gpus=4, tensor_parallel=2, pipeline_parallel=2), PerReplica()
    for kind, n in (("ray", 2), ("vllm", 1)):
        engine = dict(kind=kind, replicas=n, per_replica=each, dtype="float16")
        recipe = tiny_recipe(engine=engine, trust_remote_code=True)
        with RunDir(tmp_path / kind, recipe) as run:
            for role in ("teacher", "aligned-2", "student-arte"):
                run.register(role, tiny_model)
                live_engine(run, role, tiny_model, kinds)
    options = ModelOptions("float16", trust_remote_code=True)
    layouts = [("ray", 2, each), ("ray", 2, each), ("ray", 8, one)]
    layouts += [("vllm", 1, each), ("vllm", 1, each), ("vllm", 1, one)]
    assert opened == [(*layout, options) for layout in layouts]


class Bomb:
    "Ends the process that unpickles it."

    def __reduce__(self):
        return os._exit, (1,)


@slow
@needs_ray
def test_a_replica_that_always_dies(engine, expected):
    "After some tries the same prompts are given up, in one sentence; the engine works on."
    with pytest.raises(
        ChildProcessError, match="4 times over the same prompts .*run the same command again"
    ):
        list(engine._arriving("generate", [Job(0, (Bomb(),))], [(SAMPLING,)], 1))
    assert engine.generate(PROMPTS, SAMPLING) == expected


RUN = """
import sys, time
from functools import partial
from arte.engines.protocol import Sampling
from arte.engines.journal import Journal
from arte.engines.journaled import Journaled
from arte.core.settings.machine import PerReplica
from arte.engines.ray import RayEngine
from arte.engines.transformers import TransformersEngine
from arte.models.load import ModelOptions
folder, path = sys.argv[1:]
def make():
    in_replica = partial(TransformersEngine, folder, ModelOptions("float32"))
    engine = RayEngine(folder, in_replica, 2, PerReplica(gpus=0), batch=4)
    print("open", flush=True)
    return engine
engine = Journaled(Journal(path), %r, make, chunk=4)
prompts = [f"Question: {i}" for i in range(400)]
engine.generate(prompts, Sampling(max_tokens=200, stop_repeats=False))
print("misses", engine.misses, flush=True)
engine.close()
"""


@slow
@needs_ray
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_the_driver_is_killed(tiny_model, tmp_path, sign, alone):
    "Ray ends with it, what was committed is used, and the rest is generated once."
    psutil = pytest.importorskip("psutil")
    command = [
        sys.executable,
        "-c",
        RUN % alone.fingerprint,
        str(tiny_model),
        str(tmp_path / "journal.db"),
    ]
    p = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    p.stdout.readline()
    while (kept := len(Journal(tmp_path / "journal.db"))) < 40 and p.poll() is None:
        time.sleep(0.05)
    begun = psutil.Process(p.pid).children(recursive=True)
    os.killpg(p.pid, sign) if sign == signal.SIGINT else p.send_signal(
        sign
    )  # a terminal's Ctrl-C goes to all of them
    p.wait(60)
    assert all_gone(begun, 60), "Ray outlived the process that had started it"
    kept = len(Journal(tmp_path / "journal.db"))
    assert 40 <= kept < 400
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"misses {400 - kept}" in done.stdout and len(Journal(tmp_path / "journal.db")) == 400, (
        done.stderr[-2000:]
    )
    assert not done.stderr, "noise"


@slow
@needs_ray
@needs_vllm
def test_real_model_over_vllm(tmp_path):
    "SmolLM2 in two replicas of vLLM, one of them killed, against one vLLM in this process."
    from test_engine import FAMILIES, PROMPTS as REAL, STOP

    student, sampling = resolve_model("nano-student"), Sampling(max_tokens=48, stop=STOP)
    prompts = REAL + FAMILIES
    engine = open_two(student, VllmEngine, batch=3)
    start = time.monotonic()
    journal, answers, came = killed_in_the_middle(
        engine, tmp_path / "journal.db", prompts, sampling
    )
    print(f"vLLM, 2 replicas, one killed: {time.monotonic() - start:.0f} s")
    draws = engine.generate(prompts[:4], Sampling(1.0, max_tokens=8, n=4))
    scores = engine.logprobs(prompts[:4], [" The answer"] * 4)
    engine.close()
    one = VllmEngine(student, FLOAT32)
    assert answers == one.generate(prompts, sampling) and sorted(came) == list(range(len(prompts)))
    assert draws == one.generate(prompts[:4], Sampling(1.0, max_tokens=8, n=4))
    for a, b in zip(scores, one.logprobs(prompts[:4], [" The answer"] * 4), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    one.close()


@slow
@needs_ray
@needs_vllm
def test_tensor_parallel_replica():
    "One replica whose vLLM shares each layer between two processes; nothing is left of them."
    from test_engine import PROMPTS as REAL, STOP

    student, sampling = resolve_model("nano-student"), Sampling(max_tokens=24, stop=STOP)
    before = {p.pid for p in below()}
    in_replica = partial(VllmEngine, student, FLOAT32, tensor_parallel=2)
    engine = RayEngine(student, in_replica, 1, PerReplica(gpus=0, tensor_parallel=2))
    begun = [p for p in below() if p.pid not in before]
    answers = engine.generate(REAL, sampling)
    engine.close()
    assert all_gone(begun)
    one = VllmEngine(student, FLOAT32)
    assert answers == one.generate(REAL, sampling)
    one.close()
