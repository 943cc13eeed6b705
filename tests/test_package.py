"""The wheel and the sdist: what is in them.

With ARTE_SLOW=1 also that an installed wheel does what the README's first lines say.
"""

import email
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import resolve  # noqa: E402

BUILT = (
    ".git",
    ".venv",
    ".ci",
    "build",
    "dist",
    "runs",
    "node_modules",
    "_docs",
    "_proc",
    "*.egg-info",
    "__pycache__",
    ".pytest_cache",
)
SETTINGS = ROOT.joinpath("settings.ini").read_text()


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    "A wheel made from an sdist made from a copy of this repository."
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*BUILT))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            folder / "dist",
            folder / "source",
        ],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist):
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as z:
        return email.message_from_bytes(
            z.read(next(n for n in z.namelist() if n.endswith("METADATA")))
        )


def test_everything_that_belongs_there_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
    info = {n for n in names if ".dist-info/" in n}
    here = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "arte").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert names - info == here
    assert {
        "arte/py.typed",
        "arte/core/tasks.yaml",
        "arte/data/benchmarks.yaml",
        "arte/recipes/nano.yaml",
        "arte/recipes/accelerate/fsdp-8.yaml",
    } <= names
    assert {n.split(".")[-1] for n in here} == {"py", "yaml", "typed"}, (
        "data, notebooks or recordings have got into the package"
    )
    assert any(n.endswith("LICENSE") for n in info) and wheel.stat().st_size < 1e6


def test_the_sdist_can_be_built_and_read(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as t:
        names = {n.partition("/")[2] for n in t.getnames()}
    assert {
        "settings.ini",
        "setup.py",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "constraints/main.txt",
        "constraints/lmeval.txt",
        "constraints/lowest.txt",
        "arte/py.typed",
        "arte/recipes/nano.yaml",
    } <= names
    assert not {n for n in names if n.startswith(("nbs", "bench", "index_files"))}


def test_metadata(metadata):
    m = metadata
    assert (m["Name"], m["Requires-Python"]) == (
        "arte-distill",
        ">=3.11",
    ) and f"version = {m['Version']}" in SETTINGS
    assert all(
        m[field]
        for field in ("Summary", "Author", "Author-email", "License", "Keywords", "Home-page")
    )
    assert {u.partition(",")[0] for u in m.get_all("Project-URL")} == {
        "Documentation",
        "Source",
        "Issues",
        "Changelog",
    }
    assert {
        "Typing :: Typed",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
        "Intended Audience :: Science/Research",
    } <= set(m.get_all("Classifier"))
    extras = set(re.findall(r"^(\w+)_requirements = ", SETTINGS, re.M))
    assert set(m.get_all("Provides-Extra")) == extras, (
        "an extra of settings.ini is not in setup.py, or the other way round"
    )
    plain = [r for r in m.get_all("Requires-Dist") if "extra ==" not in r]
    assert len(plain) == len(shlex.split(re.search(r"^requirements = (.*)", SETTINGS, re.M)[1]))


def needed(metadata, python):
    "Requirements of the package alone, on one Python: name → versions."
    found = [Requirement(r) for r in metadata.get_all("Requires-Dist")]
    here = {"python_version": python, "extra": ""}
    return {r.name: r.specifier for r in found if not r.marker or r.marker.evaluate(here)}


def test_each_python_gets_the_pymc_and_the_arviz_that_it_can_have(metadata):
    old, new = needed(metadata, "3.11"), needed(metadata, "3.13")
    assert ("5.28.5" in old["pymc"], "6.0.0" in old["pymc"]) == (True, False)
    assert ("5.28.5" in new["pymc"], "6.4.0" in new["pymc"]) == (False, True)
    assert ("0.23.4" in old["arviz"], "1.3.0" in old["arviz"]) == (True, False)
    assert ("0.23.4" in new["arviz"], "1.3.0" in new["arviz"]) == (False, True)
    assert old.keys() == new.keys() == needed(metadata, "3.12").keys()


def test_tools_for_notebooks_are_not_asked_of_users(metadata):
    assert not {"fastcore", "nbdev", "execnb", "ghapi"} & needed(metadata, "3.11").keys()
    assert "2.0" not in needed(metadata, "3.11")["trl"]


def test_the_lowest_versions_are_those_of_the_settings():
    assert resolve.stale(ROOT.joinpath(resolve.LOWEST).read_text()) == []
    assert resolve.stale("numpy==1.0\n")[0].startswith("numpy>=")


def test_the_description_is_whole_on_a_package_index(metadata):
    text = metadata.get_payload()
    assert metadata["Description-Content-Type"].startswith("text/markdown") and text.startswith(
        "# ARTE"
    )
    assert not [a for a in re.findall(r"\]\(([^)\s]+)\)", text) if not a.startswith("https://")], (
        "a link or picture that is relative leads nowhere there"
    )


@pytest.fixture
def installed(wheel, tmp_path):
    "A fresh environment with the wheel in it, and the libraries of the present one."
    venv.create(tmp_path / "venv", with_pip=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    env = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    } | {"PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}", "MPLBACKEND": "agg"}

    def shell(line):
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    shell(f"python -m pip install -q --no-deps --ignore-installed --no-index {wheel}")
    assert Path(shell("python -c 'import arte; print(arte.__file__)'").strip()).is_relative_to(site)
    return shell


# The README's run needs a GPU and the hub; this one takes the models of `nano`, and little of all.
LITTLE = (
    "tasks=[boolean_expressions,object_counting,sports_understanding] data.test=generated "
    "data.n_test=6 data.n_val=8 irt.k=4 irt.method=map irt.shots=[0,1] elicit.questions=4 "
    "align.held_out=1 align.epochs=1 prefer.agreement_questions=1 prefer.max_tokens=64 "
    "pairs.question_pairs=1 distill.arms=[original,arte] distill.epochs=1 eval.max_tokens=64 "
    "engine.kind=transformers"
)


@pytest.mark.skipif(not os.environ.get("ARTE_SLOW"), reason="some minutes; ARTE_SLOW=1 runs it")
def test_the_lines_of_the_home_page(installed):
    readme = (ROOT / "README.md").read_text()
    lines = re.search(r"```sh\n(pip install.*?)```", readme, re.S)[1].splitlines()
    commands = [line.partition("#")[0].strip() for line in lines]
    assert [" ".join(c.split()[:2]) for c in commands] == [
        "pip install",
        "arte recipes",
        "arte plan",
        "arte run",
        "arte status",
    ]
    assert "nano" in installed(commands[1]) and "tokens" in installed(commands[2])
    theirs = "small --set student.model=Qwen/Qwen2.5-0.5B"
    assert theirs in commands[3]
    assert "report.html" in installed(commands[3].replace(theirs, f"nano --set {LITTLE}"))
    done = installed(commands[4])
    assert "to do" not in done and "eval" in done
    python = re.search(r"```python\n(from arte.*?)```", readme, re.S)[1]
    asked = f"load_recipe('nano', *{LITTLE.split()!r})"
    again = re.sub(r"load_recipe\(.*\)", lambda m: asked, python)
    assert asked in again
    assert "(done before)" in installed(f"python - <<'END'\n{again}END")
