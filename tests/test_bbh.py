"""Getting BBH without network, from a hub that fails or has changed, or from no folder at all."""

import sys
import time
import types

import pytest

from arte.data import bbh, sources
from arte.data.bbh import bbh_source, load_bbh, load_exemplars
from arte.data.fetch import bbh as ways
from arte.data.fetch import download, hub
from arte.data.places import OutOfReach


@pytest.fixture
def nowhere(no_hub, tmp_path):
    no_hub.chdir(tmp_path)
    sources._tell.cache_clear()
    return no_hub


def datasets(monkeypatch, load):
    "A hub that answers, and a library that loads in this way."
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_no_source(nowhere):
    assert bbh_source() is None
    with pytest.raises(OutOfReach) as e:
        load_bbh("navigate")
    first, *tried, advice = str(e.value).splitlines()
    assert "bbh is not here and no server gave it" in first
    assert [line.split(":")[0].strip() for line in tried] == [
        "github.com/suzgunmirac/BIG-Bench-Hard",
        "huggingface.co/datasets/SaylorTwift/bbh",
    ]
    assert "cannot be reached" in tried[0] and "127.0.0.1:9 cannot be reached" in tried[1]
    assert "set ARTE_DATA" in advice and "or set data.items=generated" in advice


def test_what_failed_is_not_tried_again(nowhere, capsys):
    for task in ("navigate", "snarks"):
        with pytest.raises(OutOfReach):
            load_bbh(task)
    assert capsys.readouterr().out.count("bbh: not from") == 2


def test_worked_examples_out_of_reach(nowhere):
    with pytest.raises(OutOfReach, match="the package index, lm-eval: .*cannot be reached"):
        load_exemplars("navigate")


def test_auto_ends_in_generated_items_and_says_so(nowhere, capsys):
    for _ in range(2):
        assert sources.source_of_tests("auto").name == "generated"
    out = capsys.readouterr().out
    assert out.count("bbh: not from github.com/suzgunmirac/BIG-Bench-Hard: ") == 1
    assert out.count("BBH is out of reach: the test items are generated ones") == 1


def test_offline_does_not_ask(nowhere):
    nowhere.setenv("HF_HUB_OFFLINE", "1")
    asked = []
    nowhere.setattr(download.urllib.request, "urlopen", lambda *a, **k: asked.append(a))
    with pytest.raises(OutOfReach, match="HF_HUB_OFFLINE is set"):
        load_bbh("navigate")
    assert not asked


def test_does_not_hang(nowhere):
    nowhere.setattr(download.urllib.request, "urlopen", lambda *a, **k: time.sleep(60))
    nowhere.setattr(download, "ANSWER_SECONDS", 0.2)
    t = time.perf_counter()
    with pytest.raises(OutOfReach, match="no answer in"):
        load_bbh("navigate")
    assert time.perf_counter() - t < 40


def test_hub_in_cache(nowhere, tmp_path):
    "Offline, what `datasets` downloaded before still counts."
    nowhere.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "hf/hub/datasets--SaylorTwift--bbh").mkdir(parents=True)
    datasets(nowhere, lambda *a, **k: [dict(input="not True is", target="False")])
    assert ways.hub_items("boolean_expressions") == [dict(input="not True is", target="False")]


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


def test_a_folder_beside_the_project_is_not_looked_for(nowhere, tmp_path):
    (tmp_path / "shared/data/bbh").mkdir(parents=True)
    (tmp_path / "shared/data/bbh/navigate.json").write_text('{"examples": []}')
    (tmp_path / "project/nbs/core").mkdir(parents=True)
    nowhere.chdir(tmp_path / "project/nbs/core")
    assert bbh_source() is None


def test_worked_examples_of_another_folder(nowhere, tmp_path):
    "Items in a folder without cot-prompts, worked examples in the cache."
    nowhere.setenv("ARTE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/navigate.json").write_text('{"examples": []}')
    worked = "Q: {i} + 1?\nA: Let's think step by step. So the answer is {i}."
    (tmp_path / "cache/bbh-worked/cot-prompts").mkdir(parents=True)
    file = tmp_path / "cache/bbh-worked/cot-prompts/navigate.txt"
    file.write_text("\n\n".join(worked.format(i=i) for i in range(3)))
    assert [e.answer for e in load_exemplars("navigate")] == ["0", "1", "2"]
    assert bbh.bbh_source() == tmp_path / "data"


def test_hub_rows(nowhere):
    asked = []

    def load(*a, **k):
        asked.append((a, k))
        return [{"input": "not True is", "target": "False"}]

    datasets(nowhere, load)
    assert ways.hub_items("boolean_expressions") == [{"input": "not True is", "target": "False"}]
    how = {"split": "test", "revision": ways.REVISION}
    assert asked == [(("SaylorTwift/bbh", "boolean_expressions"), how)]


def test_hub_fails(nowhere):
    def load(*a, **k):
        raise OSError("name or service\nnot known")

    datasets(nowhere, load)
    with pytest.raises(OutOfReach, match="SaylorTwift/bbh/.*: OSError: name or service not known"):
        load_bbh("navigate")


@pytest.mark.parametrize(
    "rows, problem",
    [
        ([{"question": "not True is", "answer": "False"}], "of 250 items"),
        ([], "BBH is not whole: boolean_expressions .0 of 250 items."),
        ([{"question": "not True is"}] * 250, "KeyError: 'input'"),
    ],
)
def test_hub_has_something_else(nowhere, tmp_path, rows, problem):
    datasets(nowhere, lambda *a, **k: rows)
    with pytest.raises(OutOfReach, match=problem):
        load_bbh("navigate")
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_has_other_columns(nowhere, tmp_path):
    (tmp_path / "navigate.json").write_text('{"examples": [{"question": "?", "answer": "No"}]}')
    with pytest.raises(
        ValueError, match=r"expected the columns input and target.*\['answer', 'question'\]"
    ):
        load_bbh("navigate", tmp_path)
