"Fixtures that several test files share, and the processes in which tests run."

import os
from pathlib import Path

import pytest
from hypothesis import settings

from arte.data import places
from arte.data.fetch import hub
from arte.core.recipes import load_recipe
from arte.models.nano.tiny import save_tiny_model
from support.tiny import SMALL

# A tiny model gains nothing from threads, and each process of xdist has a core to itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time; ARTE_SLOW=1 looks for new ones.
settings.register_profile("repeatable", derandomize=True)
if not os.environ.get("ARTE_SLOW"):
    settings.load_profile("repeatable")

# Data that is not part of the project may lie in a folder beside it.
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if BESIDE.is_dir():
    os.environ.setdefault("ARTE_DATA", str(BESIDE))

DATA_SETTINGS = (
    "ARTE_DATA",
    "ARTE_BIGBENCH",
    "ARTE_BENCHMARKS",
    "ARTE_BASELINES",
    "HF_HUB_OFFLINE",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
)


HEAVY = ("test_engine", "test_launch", "test_replicas", "test_site")
REAL_MODELS = ("test_engine", "test_server", "test_lmeval")
WHOLE = ("test_report", "test_fetch", "test_bigbench", "test_plan")
LONG = (
    "test_replicas",
    "test_site",
    "test_run",
    "test_launch",
    "test_kill",
    "test_damage",
    "test_plan",
)


def file_name(nodeid):
    "Name of a test's file, without folder and ending."
    return Path(nodeid.split("::")[0]).stem


def pytest_collection_modifyitems(items):
    "Mark tests that need a model, or much time; put the longest files first: no process waits."
    first = [*REAL_MODELS, *LONG]
    for item in items:
        if "tiny_model" in item.fixturenames or item.path.stem in REAL_MODELS:
            item.add_marker(pytest.mark.model)
        if item.path.stem in HEAVY:
            item.add_marker(pytest.mark.heavy)
        if item.path.stem in WHOLE:
            item.add_marker(pytest.mark.whole)
    items.sort(key=lambda i: first.index(i.path.stem) if i.path.stem in first else len(first))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Keep a file's tests in one process; files with real models share one, for memory."
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            name = file_name(nodeid)
            return "real models" if name in REAL_MODELS else name

    return ByFile(config, log)


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    "No data folder by environment, an empty cache, no server; each is asked anew."
    for name in DATA_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("ARTE_CACHE", str(tmp_path / "cache"))
    for name in ("HF_ENDPOINT", "ARTE_GITHUB", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(places, "FAILED", {})
    asked = hub.hub_reachable  # a test may put something else in its place
    asked.cache_clear()
    yield monkeypatch
    asked.cache_clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    "A random Llama of two layers with a small tokenizer: trains in seconds, knows nothing."
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(tiny_model):
    "The recipe `nano`, made small, on the tiny model."
    models = {"teacher.model": str(tiny_model), "student.model": str(tiny_model)}
    return load_recipe("nano", **SMALL | models)
