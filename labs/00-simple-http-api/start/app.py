"""The job dashboard, chapter 00: a server that says whether it is well."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Dashboard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        # TODO 1: GET /healthz answers {"status": "ok"} as JSON.
        # TODO 2: every other path is 404, as JSON too.
        self.answer(200, "text/plain", b"hello\n")

    # TODO 3: HEAD answers as GET does, without the body. Every other method on /healthz is refused with 405, as JSON.

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    port = int(os.environ.get("PORT", "8000"))
    server = ThreadingHTTPServer(("127.0.0.1", port), Dashboard)
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    # TODO 4: at SIGTERM end within 2 seconds, with exit code 0.
    server.serve_forever()


if __name__ == "__main__":
    main()
