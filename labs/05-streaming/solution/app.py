"""The job dashboard, chapter 05: HTTP on one side, jobs.py on the other."""

import json
import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

import jobs


def healthz(request):
    request.answer(200, {"status": "ok"})


def create(request):
    id, job = jobs.create(request.document(), request.headers.get("Idempotency-Key"))
    request.answer(201, job, {"Location": f"/jobs/{id}"})


def list_all(request):
    request.answer(200, {"jobs": jobs.list_all()})


def get(request, id):
    request.answer(200, jobs.get(id))


def delete(request, id):
    jobs.delete(id)
    request.answer(204)


def logs(request, id):
    jobs.find(id)
    try:
        skip = int(request.headers.get("Last-Event-ID") or 0)
    except ValueError as error:
        raise jobs.Refused(400, "Last-Event-ID: the number of the last line that you have") from error
    request.stream(line for number, line in enumerate(jobs.lines(id), 1) if number > skip)


ROUTES = [
    ("/healthz", {"GET": healthz}),
    ("/jobs", {"GET": list_all, "POST": create}),
    ("/jobs/([^/]+)", {"GET": get, "DELETE": delete}),
    ("/jobs/([^/]+)/logs", {"GET": logs}),
]


class Dashboard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def route(self):
        # What is not read of a body would be taken for the next request of this connection.
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.find()
        except jobs.Refused as refused:
            self.answer(refused.status, {"error": str(refused)})
        except ApiException as error:
            said = json.loads(error.body)["message"] if error.body else error.reason
            self.answer(502, {"error": f"Kubernetes says {error.status}: {said}"})
        except HTTPError as error:
            self.answer(503, {"error": f"Kubernetes does not answer: {error}"})

    def find(self):
        path = self.path.split("?")[0]
        for pattern, methods in ROUTES:
            if match := re.fullmatch(pattern, path):
                handler = methods.get("GET" if self.command == "HEAD" else self.command)
                if handler is None:
                    raise jobs.Refused(405, f"{self.command} is not for {path}")
                return handler(self, *match.groups())
        raise jobs.Refused(404, f"there is nothing at {path}")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = route

    def document(self):
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise jobs.Refused(400, f"the body is not JSON: {error}") from error

    def answer(self, status, document=None, headers={}):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if document is None:
            return self.end_headers()
        body = json.dumps(document).encode() + b"\n"
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stream(self, lines):
        """Sends lines as they come. Nobody knows how long that will be, so there is no Content-Length but chunks."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for line in lines:
                data = line.encode(errors="replace") + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # The viewer has left.
            self.close_connection = True
        except ApiException as error:
            # It is too late for another status. Without the last chunk the viewer knows that this is not all.
            self.log_error("the log broke off: %s %s", error.status, error.reason)
            self.close_connection = True
        finally:
            lines.close()


def main():
    port = int(os.environ.get("PORT", "8000"))
    server = ThreadingHTTPServer(("127.0.0.1", port), Dashboard)
    # shutdown() waits for serve_forever(), which this very thread runs: another one has to call it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
