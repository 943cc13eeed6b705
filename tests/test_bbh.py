"""Getting BBH without network, from a hub that fails or has changed, or from no folder at all."""

import sys
import time
import types

import pytest

from arte.data import places
from arte.data.bbh import bbh_source, load_bbh


@pytest.fixture
def nowhere(no_hub, tmp_path):
    "No folder either, not even above the temporary one."
    seen = places.shared_folders
    no_hub.setattr(
        places, "shared_folders", lambda name: [o for o in seen(name) if tmp_path in o.parents]
    )
    no_hub.chdir(tmp_path)
    return no_hub


def hub(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_no_source(nowhere):
    assert bbh_source() is None
    with pytest.raises(FileNotFoundError, match="set ARTE_DATA .* or set data.items=generated"):
        load_bbh("navigate")


def test_offline_does_not_ask(nowhere):
    nowhere.setenv("HF_HUB_OFFLINE", "1")
    asked = []
    nowhere.setattr(places.urllib.request, "urlopen", lambda *a, **k: asked.append(a))
    assert bbh_source() is None and not asked


def test_does_not_hang(nowhere):
    nowhere.setattr(places.urllib.request, "urlopen", lambda *a, **k: time.sleep(60))
    t = time.perf_counter()
    assert bbh_source() is None
    assert time.perf_counter() - t < 40  # its own limit is seconds


def test_hub_in_cache(nowhere, tmp_path):
    nowhere.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "hf/hub/datasets--lukaemon--bbh").mkdir(parents=True)
    assert bbh_source() == "hub"


def test_folders(nowhere, tmp_path):
    clone = tmp_path / "BIG-Bench-Hard"
    (clone / "bbh").mkdir(parents=True)
    nowhere.setenv("ARTE_DATA", str(clone))
    with pytest.raises(FileNotFoundError, match="holds no BBH file"):
        bbh_source()
    (clone / "bbh/navigate.json").write_text('{"examples": []}')
    assert bbh_source() == clone / "bbh"
    nowhere.setenv("ARTE_DATA", str(clone / "bbh"))
    assert bbh_source() == clone / "bbh"


def test_shared_folder_above(nowhere, tmp_path):
    (tmp_path / "shared/data/bbh").mkdir(parents=True)
    (tmp_path / "shared/data/bbh/navigate.json").write_text('{"examples": []}')
    (tmp_path / "project/nbs/core").mkdir(parents=True)
    nowhere.chdir(tmp_path / "project/nbs/core")
    assert bbh_source() == tmp_path / "shared/data/bbh"


def test_hub_rows(nowhere):
    asked = []

    def load(*a, **k):
        asked.append((a, k))
        return [{"input": "not True is", "target": "False"}]

    hub(nowhere, load)
    (item,) = load_bbh("boolean_expressions", "hub")
    assert (item.question, item.answer, item.kind, item.split) == (
        "not True is",
        "False",
        "truefalse",
        "test",
    )
    assert asked == [(("lukaemon/bbh", "boolean_expressions"), {"split": "test"})]


def test_hub_unreachable(nowhere):
    def load(*a, **k):
        raise OSError("name or service not known")

    hub(nowhere, load)
    with pytest.raises(ConnectionError, match="name or service not known.*set ARTE_DATA"):
        load_bbh("navigate", "hub")


def test_hub_changed_its_columns(nowhere):
    hub(nowhere, lambda *a, **k: [{"question": "not True is", "answer": "False"}])
    with pytest.raises(
        ValueError, match=r"expected the columns input and target.*\['answer', 'question'\]"
    ):
        load_bbh("navigate", "hub")
