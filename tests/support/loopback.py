"A server on this machine that hands every request to one function."

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
