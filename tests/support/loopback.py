"A server on this machine that hands every request to one function, and how requests are answered."

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def say(handler, body, status=200, **headers):
    "Answer with bytes as they are, or with anything else as JSON; `Retry_After` is Retry-After."
    if not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), dict(Content_Type="application/json") | headers
    handler.send_response(status)
    for name, value in (dict(Content_Length=str(len(body))) | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


class Loopback:
    "Serve until closed; a child says what to answer."

    protocol = "HTTP/1.0"

    def serve(self):
        "Begin to serve, at `url`."
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = outer.protocol

            def handle_any(self):
                outer.answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = handle_any

            def log_message(self, *a):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler):
        raise NotImplementedError

    def close(self):
        self.server.shutdown()
        self.server.server_close()
