"""Judges what a request from outside cannot. labctl runs a copy of its own; you may run this one.

    python judge.py suite   runs tests/ against one right server and against wrong ones
    python judge.py stop    starts app.py and sends it SIGTERM
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OK = (200, "application/json; charset=utf-8", b'{ "status" : "ok" }')
GONE = (404, "application/problem+json", b'{"title": "not found", "status": 404}')

# For each server: GET /healthz, POST /healthz, any other path; and HEAD /healthz where it is not as GET.
SERVERS = {
    "right": (OK, GONE, GONE),
    "wrong_type": ((200, "text/html", b'{"status": "ok"}'), GONE, GONE),
    "unwell": ((200, "application/json", b'{"status": "down"}'), GONE, GONE),
    "always_200": (OK, GONE, OK),
    "html_errors": (OK, GONE, (404, "text/html", b"<h1>404</h1>")),
    "takes_post": (OK, OK, GONE),
    "no_head": (OK, GONE, GONE, GONE),
}


def server_of(get, post, other, head=None):
    class Handler(BaseHTTPRequestHandler):
        def route(self):
            healthz = {"POST": post, "HEAD": head or get}.get(self.command, get)
            status, content_type, body = healthz if self.path == "/healthz" else other
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = route

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def suite():
    servers = {name: server_of(*answers) for name, answers in SERVERS.items()}
    # pytest is loaded once, and each of its runs is a copy of this process.
    import pytest

    runs = {}
    for name, server in servers.items():
        runs[name] = os.fork()
        if runs[name] == 0:
            os.environ["DASHBOARD_URL"] = f"http://127.0.0.1:{server.server_port}"
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            sys.exit(int(pytest.main(["-q", "-p", "no:cacheprovider", "tests"])))
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    out = {}
    for name, run in runs.items():
        code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
        # 1 is pytest's word for "a test failed"; 2 to 5 say that it could not test.
        out[name] = {0: "passed", 1: "failed"}.get(code, f"pytest ended with {code}")
    return out


def listens(port):
    with socket.socket() as s:
        s.settimeout(0.2)
        return s.connect_ex(("127.0.0.1", port)) == 0


def stop():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen([sys.executable, "app.py"], env={**os.environ, "PORT": str(port)}, stdout=sys.stderr)
    out = {"listens_on_port": False}
    try:
        begin = time.monotonic()
        while time.monotonic() - begin < 10 and server.poll() is None and not out["listens_on_port"]:
            out["listens_on_port"] = listens(port)
            time.sleep(0.02)
        if out["listens_on_port"]:
            server.send_signal(signal.SIGTERM)
            try:
                out["exit_code"] = server.wait(2)
                out["ended"] = "within 2 seconds"
            except subprocess.TimeoutExpired:
                out["ended"] = "not within 2 seconds"
    finally:
        server.kill()
        server.wait()
    return out


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    what = {"suite": suite, "stop": stop}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if what is None:
        sys.exit(__doc__)
    print(json.dumps(what(), indent=2))
