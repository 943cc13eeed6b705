"""As much of the Hugging Face hub as a push needs, on this machine: what is uploaded can be looked at."""

import base64
import json
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_of_a_test"


class FakeHub:
    "Repositories by (type, name): private, and files by their path."

    def __init__(self):
        self.repos, self.objects, self.asked = {}, {}, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                hub.answer(self, "POST")

            def do_GET(self):
                hub.answer(self, "GET")

            def do_PUT(self):
                hub.answer(self, "PUT")

            def log_message(self, *a):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, h, verb):
        path, body = (
            h.path.partition("?")[0],
            h.rfile.read(int(h.headers.get("Content-Length") or 0)),
        )
        self.asked.append(f"{verb} {path}")
        status, reply = self.reply(path, body, h.headers.get("Authorization"))
        data = json.dumps(reply).encode()
        h.send_response(status)
        h.send_header("Content-Type", "application/json")
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        h.wfile.write(data)

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
            return 200, dict(
                objects=[
                    o | dict(actions=dict(upload=dict(href=f"{self.url}/lfs/{o['oid']}")))
                    for o in json.loads(body)["objects"]
                ]
            )
        _, _, kind, user, name, *verb = path.split("/")
        repo = self.repos.get((kind.removesuffix("s"), f"{user}/{name}"))
        if repo is None:
            return 404, dict(error="Repository not found")
        if not verb:
            return 200, dict(
                id=f"{user}/{name}",
                private=repo["private"],
                sha="0" * 40,
                siblings=[],
                tags=[],
                downloads=0,
                likes=0,
            )
        if verb[0] == "preupload":
            return 200, dict(
                files=[
                    dict(
                        path=f["path"],
                        uploadMode="lfs"
                        if f["path"].endswith((".safetensors", ".parquet"))
                        else "regular",
                        shouldIgnore=False,
                    )
                    for f in json.loads(body)["files"]
                ]
            )
        return self.commit(
            repo, [json.loads(line) for line in body.splitlines()], kind, f"{user}/{name}"
        )

    def create(self, asked):
        key = (asked.get("type", "model"), f"{asked['organization']}/{asked['name']}")
        if asked["organization"] != "me":
            return 403, dict(
                error=f"You don't have the rights to create a {key[0]} under the namespace {asked['organization']}"
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
