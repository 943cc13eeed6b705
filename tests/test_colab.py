"""The copies of pages for hosted notebooks: generated, and run outside of the repository from a
built wheel, with the archive of recorded runs served on loopback."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import threading
import venv
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbdev.config import get_config

from arte.howto.render import has_copy, page_links

ROOT = Path(__file__).resolve().parent.parent
RUN = ("00_elicit_gates.ipynb", "03_pairs.ipynb", "course/capstone.ipynb")


def make(out, *how):
    "Generate the copies and the archive; returns the copies as notebooks, by path."
    script = [sys.executable, ROOT / "tools/colab.py", "--out", out, *how]
    subprocess.run(script, check=True, cwd=ROOT, capture_output=True)
    found = {}
    for file in sorted(out.rglob("*.ipynb")):
        found[file.relative_to(out).as_posix()] = json.loads(file.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return make(tmp_path_factory.mktemp("copies"))


def sources(nb, kind):
    return ["".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == kind]


def test_the_pages_of_method_and_course_have_copies(copies):
    pages = {f.relative_to(ROOT / "nbs").as_posix() for f in (ROOT / "nbs").rglob("*.ipynb")}
    assert set(copies) == set(filter(has_copy, pages))
    assert {"00_elicit.ipynb", "07_eval.ipynb", "course/solutions/07.ipynb"} <= set(copies)
    cfg = get_config()
    for path in copies:
        (colab,) = [link["href"] for link in page_links(path) if "colab" in link["href"]]
        assert colab.endswith(f"github/{cfg.user}/{cfg.repo}/blob/colab/{path}")


def test_copies_need_neither_nbdev_nor_quarto(copies):
    transform = TransformerManager().transform_cell
    for path, nb in copies.items():
        for text in sources(nb, "code"):
            ast.parse(transform(text))
            assert "#|" not in text and "nbdev_export" not in text, path
        for text in sources(nb, "markdown"):
            assert ":::" not in text and "{#" not in text, (path, text)
            links = re.findall(r"\]\(([^)]+)\)", text)
            assert all(link.startswith(("http", "#")) for link in links), (path, links)


def test_slow_cells_wait_for_a_switch(copies):
    nb = json.loads((ROOT / "nbs/04_align.ipynb").read_text(encoding="utf-8"))
    slow = [text for text in sources(nb, "code") if re.search(r"^#\| slow", text, re.M)]
    assert len(slow) == sum(
        t.startswith("%%slow") for t in sources(copies["04_align.ipynb"], "code")
    )


def test_the_archive_is_always_the_same_and_named_by_its_checksum(tmp_path):
    packed = []
    for name in ("one", "two"):
        nb = make(tmp_path / name)["01_irt.ipynb"]
        (file,) = (tmp_path / name).glob("*.tar.gz")
        packed.append(file.read_bytes())
        assert hashlib.sha256(packed[-1]).hexdigest() in "".join(sources(nb, "code"))
    assert packed[0] == packed[1]
    with tarfile.open(file) as archive:
        names = set(archive.getnames())
    assert {"replay/recipe.yaml", "course/price_comparison.csv"} <= names
    assert not any("models/" in name or name.endswith("lock") for name in names)


# In an environment of their own


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    "A wheel, an environment that has everything but this package, and a home."
    folder = tmp_path_factory.mktemp("hosted")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ARTE_DATA")}
    copy = ["git", "clone", "-q", "--no-hardlinks", ROOT, folder / "source"]
    subprocess.run(copy, check=True, capture_output=True)
    files = subprocess.check_output(
        ["git", "ls-files", "-z", "-mo", "--exclude-standard"], cwd=ROOT
    )
    for name in filter(None, files.decode().split("\0")):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, folder / "source"], check=True, capture_output=True, env=env)
    venv.create(folder / "venv", with_pip=True)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    (site / "base.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "home").mkdir()
    return folder, env | dict(HOME=str(folder / "home"), HF_HUB_OFFLINE="1")


@pytest.fixture
def server(tmp_path):
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def execute(folder, env, notebook):
    python = folder / "venv/bin/python"
    how = ["--to", "notebook", "--execute", "--output", "done.ipynb", "--output-dir", folder]
    return subprocess.run(
        [python, "-m", "nbconvert", *how, notebook],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.long
def test_copies_run_in_an_environment_of_their_own(elsewhere, server, tmp_path):
    folder, env = elsewhere
    (wheel,) = folder.glob("*.whl")
    make(tmp_path, "--install", f"{wheel}[nano]", "--address", server)
    for path in RUN:
        nb = json.loads((tmp_path / path).read_text(encoding="utf-8"))
        last = dict(nb["cells"][2], id="last", source="import arte; print('from', arte.__file__)")
        nb["cells"].append(last)
        (tmp_path / path).write_text(json.dumps(nb), encoding="utf-8")
        done = execute(folder, env, tmp_path / path)
        assert done.returncode == 0, f"{path}: {done.stderr[-3000:]}"
        (printed,) = json.loads((folder / "done.ipynb").read_text())["cells"][-1]["outputs"]
        assert f"from {folder}/venv" in "".join(printed["text"]), "not the built package"


@pytest.mark.long
def test_a_damaged_archive_is_refused(elsewhere, server, tmp_path):
    folder, env = elsewhere
    (wheel,) = folder.glob("*.whl")
    make(tmp_path, "--install", f"{wheel}[nano]", "--address", server)
    (packed,) = tmp_path.glob("*.tar.gz")
    packed.write_bytes(packed.read_bytes()[:-1])
    done = execute(folder, env | dict(HOME=str(tmp_path / "home")), tmp_path / RUN[0])
    assert done.returncode != 0 and "has the checksum" in done.stderr
    assert not list((tmp_path / "home").rglob("replay"))
