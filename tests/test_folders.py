"""Models by name: a hub that refuses, has other revisions or is out of reach; files of packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arte.models import folders
from arte.models.folders import package_files, resolve_model
from arte.run.hub.terms import hub_name, outside
from support.sites import Sites

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import json, sys
from arte.models.folders import model_origin, resolve_model
try:
    folder = resolve_model(sys.argv[1])
except FileNotFoundError as e:
    sys.exit(str(e))
config = (folder / "config.json").read_text()
print(json.dumps(model_origin(sys.argv[1], folder) | dict(config=config)))
"""
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def sites():
    servers = Sites()
    files = {"config.json": b'{"n": 1}', "model.safetensors": b"weights", "run.py": b"1/0"}
    servers.repos["some/model"] = dict(files=files, commit=FIRST, tags=["v1"])
    servers.repos["some/gated"] = dict(files=files, commit=SECOND, gated=True)
    yield servers
    servers.close()


def resolved(sites, tmp_path, name, **env):
    "What a process of its own, with a home of its own, finds."
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = dict(HOME=str(tmp_path), HF_HOME=str(tmp_path / "hf"), PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=known | home | dict(HF_ENDPOINT=sites.url) | env,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{FIRST}"])
def test_a_model_and_its_commit(sites, tmp_path, revision):
    status, out, err = resolved(sites, tmp_path, f"some/model{revision}")
    assert status == 0, err
    assert json.loads(out) == dict(hub="some/model", commit=FIRST, config='{"n": 1}')
    assert not list(tmp_path.rglob("run.py"))  # code stays there


@pytest.mark.parametrize("token", [None, "hf_of_somebody"])
def test_a_gated_model_says_where_to_accept_its_terms(sites, tmp_path, token):
    status, _, err = resolved(
        sites, tmp_path, "some/gated", **({"HF_TOKEN": token} if token else {})
    )
    assert status == 1 and f"Accept its terms at {sites.url}/some/gated, then log in" in err
    assert "hf auth login" in err and "HF_TOKEN" in err


@pytest.mark.parametrize(
    "name, told",
    [
        (f"some/model@{SECOND}", f"The model some/model has no revision '{SECOND}'. Its commits: "),
        ("some/modell", "gave no such model: nothing at "),
    ],
)
def test_a_model_that_is_not_there(sites, tmp_path, name, told):
    status, _, err = resolved(sites, tmp_path, name)
    assert status == 1 and told in err and sites.url in err


def test_no_network(sites, tmp_path):
    dead = dict(HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    status, _, err = resolved(sites, tmp_path, "some/model", **dead)
    assert status == 1 and "Without a network, give a folder with safetensors" in err


def test_a_revision_is_no_part_of_the_name():
    assert hub_name("Qwen/Qwen2.5-0.5B@main") == "Qwen/Qwen2.5-0.5B"
    assert outside("Qwen/Qwen2.5-0.5B@main") == "Qwen/Qwen2.5-0.5B@main"
    assert outside("/home/me/runs/mine@home/students") == "students"


# Packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    "Install a package of weights whose code must not run."

    def install(name, files):
        listed = {f"{name}/__init__.py": b"raise SystemExit('imported')"}
        listed |= {f"{name}/data/{file}": content for file, content in files.items()}
        info = f"{name}-1.0.dist-info"
        listed[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
        for place, content in listed.items():
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_bytes(content)
        record = "".join(f"{place},,\n" for place in [*listed, f"{info}/RECORD"])
        (tmp_path / info / "RECORD").write_text(record)

    monkeypatch.syspath_prepend(tmp_path)
    return install


def test_parts_of_a_file(package, tmp_path):
    package("our_weights", {"NOTICE": b""})
    for i, part in enumerate((b"wei", b"ghts")):
        package(f"our_weights_part{i + 1}", {f"w.gguf.part{i:02}": part})
    found = package_files("our_weights", "w.gguf")
    assert b"".join(p.read_bytes() for p in found) == b"weights"
    found[1].rename(found[1].with_name("w.gguf.part09"))
    with pytest.raises(FileNotFoundError, match=r"complete in it: found \['w.gguf.part00'\]"):
        package_files("our_weights", "w.gguf")
    with pytest.raises(FileNotFoundError, match="isn't complete in it: found nothing"):
        package_files("our_weights", "other.gguf")


def test_a_file_that_the_package_does_not_list_is_not_read(package, tmp_path):
    package("our_weights", {"NOTICE": b""})
    (tmp_path / "our_weights/data/w.gguf").write_bytes(b"weights")
    with pytest.raises(FileNotFoundError, match="isn't complete"):
        package_files("our_weights", "w.gguf")


@pytest.mark.parametrize("known", ["in the package", "in the code"])
def test_another_file_is_refused(package, monkeypatch, known):
    sums = f"{'0' * 64}  w.gguf\n".encode() if known == "in the package" else b""
    package("our_weights", {"w.gguf": b"weights", "SHA256SUMS": sums})
    if known == "in the code":
        monkeypatch.setitem(folders.SHA256, "w.gguf", "0" * 64)
    with pytest.raises(ValueError, match="w.gguf: SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        resolve_model("our_weights:w.gguf")
    assert "our_weights" not in sys.modules
