"""The job dashboard, chapter 00: a server that says whether it is well."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Dashboard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def route(self):
        # What is not read of a body would be taken for the next request of this connection.
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.split("?")[0] != "/healthz":
            self.answer(404, {"error": f"there is nothing at {self.path}"})
        elif self.command not in ("GET", "HEAD"):
            self.answer(405, {"error": f"{self.command} is not for {self.path}"}, {"Allow": "GET, HEAD"})
        else:
            self.answer(200, {"status": "ok"})

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = route

    def answer(self, status, document, headers={}):
        body = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main():
    port = int(os.environ.get("PORT", "8000"))
    server = ThreadingHTTPServer(("127.0.0.1", port), Dashboard)
    # shutdown() waits for serve_forever(), which this very thread runs: another one has to call it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
