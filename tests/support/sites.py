"""Servers on this machine that answer as GitHub, the hub and a package index do, with faults."""

import hashlib
import io
import json
import re
import tarfile
import zipfile
from urllib.parse import unquote

import pandas as pd

from support.loopback import Loopback, say

COMMIT = "c0ffee" + "0" * 34


def tar_gz(files):
    "An archive with one folder at its top, as GitHub's are."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"top-{COMMIT}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wheel(files):
    "A wheel with these files."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
    return buffer.getvalue()


def parquet(rows):
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer)
    return buffer.getvalue()


class Sites(Loopback):
    """One server for all: addresses answer with bytes, or with a function of the request.

    `faults` says what goes wrong: address → a list of statuses to answer first, or "cut".
    """

    protocol = "HTTP/1.1"

    def __init__(self):
        self.files: dict[str, bytes] = {}  # path → content
        self.moved: dict[str, str] = {}  # path → where it is
        self.repos: dict[str, dict] = {}  # "datasets/a/b" → {"files": …, "gated": …}
        self.faults: dict[str, list] = {}
        self.asked: list[str] = []
        self.serve()

    # what is there

    def put_archive(self, repository, commit, files):
        "A repository's archive, where GitHub redirects to."
        self.moved[f"/{repository}/archive/{commit}.tar.gz"] = f"/codeload/{commit}"
        self.files[f"/codeload/{commit}"] = tar_gz(files)

    def put_package(self, package, name, content, form="json"):
        "A file of a package, and the index's page of it."
        self.files[f"/files/{name}"] = content
        digest = hashlib.sha256(content).hexdigest()
        page = f'<html><a href="/files/{name}#sha256={digest}">{name}</a></html>'
        if form == "json":
            file = dict(filename=name, url=f"{self.url}/files/{name}", hashes=dict(sha256=digest))
            page = json.dumps(dict(name=package, files=[file]))
        self.files[f"/simple/{package}/"] = page.encode()

    def put_data(self, name, configurations):
        "A data set of Parquet files: configuration → split → rows."
        files, listed = {}, []
        for config, splits in configurations.items():
            parts = []
            for split, rows in splits.items():
                files[f"{config}/{split}-00000-of-00001.parquet"] = parquet(rows)
                parts.append(dict(split=split, path=f"{config}/{split}-*"))
            listed.append(dict(config_name=config, data_files=parts))
        head = json.dumps(dict(configs=listed))  # JSON is YAML
        files["README.md"] = f"---\n{head}\n---\n".encode()
        self.repos[f"datasets/{name}"] = dict(files=files)

    # how it answers

    def answer(self, h):
        path = unquote(h.path.partition("?")[0])
        length = int(h.headers.get("Content-Length") or 0)
        body = h.rfile.read(length)
        self.asked.append(f"{h.command} {path}")
        fault = self.faults.get(path)
        if fault:
            what = fault.pop(0)
            if what == "cut":
                return self.cut(h, self.files[path])
            if what != 200:
                status, headers = what if isinstance(what, tuple) else (what, {})
                return say(h, b"refused", status, **headers)
        if path in self.moved:
            return say(h, b"", 302, Location=self.moved[path])
        if path in self.files:
            return say(h, self.files[path])
        self.answer_as_hub(h, path, body)

    def cut(self, h, content):
        h.send_response(200)
        h.send_header("Content-Length", str(len(content)))
        h.end_headers()
        h.wfile.write(content[: len(content) // 2])
        h.close_connection = True

    def refuse(self, h, status, code, text):
        headers = {"X-Error-Code": code, "X-Error-Message": text}
        say(h, dict(error=text), status, **headers)

    def answer_as_hub(self, h, path, body):
        api = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(.*))?", path)
        file = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        kind, name = (api or file).groups()[:2] if api or file else ("", "")
        key = f"datasets/{name}" if kind == "datasets" else name
        if key not in self.repos:
            return self.refuse(h, 404, "RepoNotFound", "Repository not found")
        repo = self.repos[key]
        if file:
            return self.hub_file(h, repo, *file.groups()[2:])
        return self.hub_api(h, repo, name, api.group(3) or "", body)

    def hub_api(self, h, repo, name, rest, body):
        verb, _, rest = rest.partition("/")
        revision = rest.partition("/")[0] or "main"
        if verb and not self.has_revision(repo, revision):
            return self.refuse(h, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb in ("", "revision"):
            siblings = [dict(rfilename=f) for f in repo["files"]]
            about = dict(id=name, sha=repo.get("commit", COMMIT), siblings=siblings, tags=[])
            return say(h, about | dict(private=False, downloads=0, likes=0))
        if verb == "tree":
            below = rest.partition("/")[2]
            return say(h, self.tree(repo, below, "recursive=" in h.path))
        if verb == "paths-info":
            paths = re.findall(r"paths=([^&]*)", body.decode()) or json.loads(body)["paths"]
            paths = [unquote(p) for p in paths]
            return say(h, [o for o in self.tree(repo, "", True) if o["path"] in paths])
        self.refuse(h, 404, "EntryNotFound", f"no {verb}")

    def has_revision(self, repo, revision):
        return revision in ("main", repo.get("commit", COMMIT), *repo.get("tags", []))

    def tree(self, repo, below, recursive):
        entries, folders = [], set()
        for name, content in repo["files"].items():
            if below and not name.startswith(f"{below}/"):
                continue
            parent = name.rpartition("/")[0]
            while parent and parent != below:
                folders.add(parent)
                parent = parent.rpartition("/")[0]
            oid = hashlib.sha1(content).hexdigest()
            if recursive or "/" not in name.removeprefix(f"{below}/" if below else ""):
                entries.append(dict(type="file", path=name, size=len(content), oid=oid))
        for folder in sorted(folders):
            if recursive or "/" not in folder.removeprefix(f"{below}/" if below else ""):
                entries.append(dict(type="directory", path=folder, size=0, oid="0" * 40))
        return entries

    def hub_file(self, h, repo, revision, name):
        commit = repo.get("commit", COMMIT)
        if not self.has_revision(repo, revision):
            return self.refuse(h, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if repo.get("gated"):
            status = 403 if h.headers.get("Authorization") else 401
            return self.refuse(h, status, "GatedRepo", "Access to this model is restricted")
        if name not in repo["files"]:
            return self.refuse(h, 404, "EntryNotFound", "Entry not found")
        content = repo["files"][name]
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        if name.endswith((".parquet", ".safetensors")):  # large files are elsewhere
            place = f"/cdn/{hashlib.sha256(content).hexdigest()}"
            self.files[place] = content
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            other = self.url.replace(
                "127.0.0.1", "localhost"
            )  # large files have a host of their own
            return say(h, b"", 302, Location=other + place, **headers)
        say(h, content, **headers)
