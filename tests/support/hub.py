"""As much of the Hugging Face hub as a push needs, on this machine; it keeps what is uploaded."""

import base64
import json
from hashlib import sha256

import yaml

from support.loopback import Loopback, say

TOKEN = "hf_of_a_test"


class FakeHub(Loopback):
    "Repositories by (type, name): private, and files by their path."

    def __init__(self):
        self.repos, self.objects, self.asked = {}, {}, []
        self.serve()

    def answer(self, h):
        path, body = (
            h.path.partition("?")[0],
            h.rfile.read(int(h.headers.get("Content-Length") or 0)),
        )
        self.asked.append(f"{h.command} {path}")
        status, reply = self.reply(path, body, h.headers.get("Authorization"))
        say(h, reply, status)

    def reply(self, path, body, authorization):
        "(status, what to say)"
        if path.startswith("/lfs/"):
            self.objects[sha256(body).hexdigest()] = body
            return 200, {}
        if authorization != f"Bearer {TOKEN}":
            return 401, dict(error="Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path.endswith("/info/lfs/objects/batch"):
            return self.batch(json.loads(body)["objects"])
        _, _, kind, user, name, *verb = path.split("/")
        if (kind.removesuffix("s"), f"{user}/{name}") not in self.repos:
            return 404, dict(error="Repository not found")
        return self.reply_of_repo(kind, f"{user}/{name}", verb, body)

    def reply_of_repo(self, kind, name, verb, body):
        "What there is to say about a repository, or to its commits."
        repo = self.repos[kind.removesuffix("s"), name]
        if not verb:
            known = dict(siblings=[], tags=[], downloads=0, likes=0)
            return 200, dict(id=name, private=repo["private"], sha="0" * 40) | known
        if verb[0] == "preupload":
            return 200, dict(files=[self.upload_mode(f["path"]) for f in json.loads(body)["files"]])
        return self.commit(repo, [json.loads(line) for line in body.splitlines()], kind, name)

    def batch(self, objects):
        "Where large files are to be put."
        places = []
        for o in objects:
            upload = dict(href=f"{self.url}/lfs/{o['oid']}")
            places.append(o | dict(actions=dict(upload=upload)))
        return 200, dict(objects=places)

    def upload_mode(self, path):
        large = path.endswith((".safetensors", ".parquet"))
        return dict(path=path, uploadMode="lfs" if large else "regular", shouldIgnore=False)

    def create(self, asked):
        key = (asked.get("type", "model"), f"{asked['organization']}/{asked['name']}")
        if asked["organization"] != "me":
            return 403, dict(
                error=f"You don't have the rights to create a {key[0]} under the namespace "
                f"{asked['organization']}"
            )
        url = dict(url=f"{self.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}")
        if key in self.repos:
            return 409, url | dict(error="You already created this repo")
        self.repos[key] = dict(private=asked.get("visibility") == "private", files={})
        return 200, url

    def validate(self, card):
        _, head, _ = card.split("---\n", 2)
        return (
            (200, dict(errors=[], warnings=[]))
            if isinstance(yaml.safe_load(head), dict)
            else (400, dict(errors=[dict(message="no metadata")], warnings=[]))
        )

    def commit(self, repo, lines, kind, name):
        for o in lines:
            v = o["value"]
            if o["key"] == "file":
                repo["files"][v["path"]] = base64.b64decode(v["content"])
            if o["key"] == "lfsFile":
                repo["files"][v["path"]] = self.objects[v["oid"]]
            if o["key"] == "header":
                repo["message"] = v["summary"]
        return 200, dict(
            success=True,
            commitOid="1" * 40,
            commitUrl=f"{self.url}/{kind}/{name}/commit/{'1' * 40}",
        )
