"The course: its notebooks, checks that take any answer, the capstone without its recording."

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from arte.run.rundir import RunDir
from arte.course.checks import EXERCISES, verdict

NBS = Path(__file__).parents[1] / "nbs"
METHOD = sorted(p for p in NBS.glob("0[0-7]_*.ipynb") if p.stem.count("_") == 1)  # not irt_fit
KINDS = ("predict", "change", "build")


def code(path):
    "Sources of a notebook's code cells."
    return [
        "".join(c["source"])
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]


@pytest.fixture
def in_nbs(monkeypatch):
    monkeypatch.chdir(NBS)  # the recorded run is found from there


@pytest.mark.parametrize("path", METHOD, ids=lambda p: p.stem)
def test_three_starters_without_an_answer(path):
    starters = [
        re.search(r'^answer = None .*\ncheck\("(.*?)", answer\)$', c, re.M) for c in code(path)
    ]
    assert [s[1] for s in starters if s] == [f"{path.stem[:2]}.{k}" for k in KINDS]


@pytest.mark.parametrize("path", METHOD, ids=lambda p: p.stem)
def test_three_solutions(path):
    cells = "\n".join(code(NBS / "course" / "solutions" / f"{path.stem[:2]}.ipynb"))
    assert re.findall(r'solved\(\s*"(.*?)"', cells) == [f"{path.stem[:2]}.{k}" for k in KINDS]


def junk():
    "What somebody may give as an answer."
    return (
        "x",
        -1e9,
        float("nan"),
        [],
        {},
        [None],
        object(),
        len,
        lambda *a: None,
        lambda *a: "x",
        lambda: 1,
        lambda *a: 1 / 0,
    )


@pytest.mark.parametrize("name", EXERCISES)
def test_any_answer_is_answered(in_nbs, name):
    "No answer makes a check fail, and a wild guess is told what is asked."
    for answer in junk():
        said = verdict(name, answer)
        assert not said.right and said.text.startswith("Not yet"), (answer, said)
    assert EXERCISES[name].asked in verdict(name, object()).text


@pytest.mark.skipif(
    not os.environ.get("ARTE_SLOW"),
    reason="a few minutes with the real nano models; set ARTE_SLOW=1",
)
def test_capstone_without_its_recording(tmp_path, monkeypatch):
    "As a reader does it who brings a task: no recording is there, and the models do everything."
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for f in [NBS / "course" / "capstone.ipynb", *(NBS / "course").glob("*.csv")]:
        shutil.copy(f, tmp_path)
    nb = nbformat.read(tmp_path / "capstone.ipynb", 4)
    nbclient.NotebookClient(
        nb, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    run = RunDir(tmp_path / "price_comparison")
    assert (
        len(run.table("examples"))
        == len((run.folder / "tailored.jsonl").read_text().splitlines())
        > 0
    )
    assert {"student", "teacher", "aligned"} <= set(run.models)
