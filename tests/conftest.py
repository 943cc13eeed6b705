"Fixtures that several test files share, and the processes in which tests run."

import os

import pytest

from arte.data import places
from arte.core.recipes import load_recipe
from arte.models.tiny import save_tiny_model
from support.tiny import SMALL

# A tiny model gains nothing from threads, and each process of xdist has a core to itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA_SETTINGS = (
    "ARTE_DATA",
    "ARTE_BENCHMARKS",
    "ARTE_BASELINES",
    "HF_HUB_OFFLINE",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    "Mark the tests that need a model; keep the tests of a file in one process of xdist."
    for item in items:
        if "tiny_model" in item.fixturenames:
            item.add_marker(pytest.mark.model)
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    "No data folder by environment, no cache, no network; the hub is asked anew."
    for name in DATA_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    asked = places.hub_reachable  # a test may put something else in its place
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
