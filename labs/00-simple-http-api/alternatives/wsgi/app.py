"""The same API as a WSGI application: a table of routes, and a server that knows nothing of them."""

import json
import os
import signal
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

ROUTES = {("GET", "/healthz"): lambda: {"status": "ok", "version": 1}}


def application(environ, start_response):
    method = environ["REQUEST_METHOD"]
    handler = ROUTES.get(("GET" if method == "HEAD" else method, environ["PATH_INFO"]))
    status, document = ("200 OK", handler()) if handler else ("404 Not Found", {"title": "not found"})
    body = json.dumps(document, separators=(",", ":")).encode()
    kind = "application/json" if handler else "application/problem+json"
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [b"" if method == "HEAD" else body]


class Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    make_server("127.0.0.1", int(os.environ["PORT"]), application, server_class=Threads).serve_forever()
