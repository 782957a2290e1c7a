"""The same API in another shape: WSGI, raw JSON of the API server, ids of their own, one table of routes."""

import json
import os
import re
import signal
import sys
import uuid
from socketserver import ThreadingMixIn
from urllib.parse import urlencode
from wsgiref.simple_server import WSGIServer, make_server

import urllib3
from kubernetes import client, config

config.load_kube_config()
CLUSTER = client.Configuration.get_default_copy()
HTTP = urllib3.PoolManager(ca_certs=CLUSTER.ssl_ca_cert)
BASE = "/apis/batch/v1/namespaces/lab-jobs/jobs"
PODS = "/api/v1/namespaces/lab-jobs/pods"


class KubeError(Exception):
    def __init__(self, answer):
        self.status, self.reason = answer.status, answer.json().get("reason", "Unknown")


def kube(method, path, body=None, query=()):
    answer = HTTP.request(
        method, CLUSTER.host + path + "?" + urlencode(query), json=body,
        headers={"Authorization": CLUSTER.get_api_key_with_prefix("BearerToken") or CLUSTER.api_key["authorization"]},
    )
    if answer.status >= 400:
        raise KubeError(answer)
    return answer.json()


def shown(job):
    id = job["metadata"]["labels"]["labctl.dev/job-id"]
    status = job.get("status", {})
    out = {"id": id, "name": job["metadata"]["labels"]["labctl.dev/job-name"], "state": "pending"}
    pods = kube("GET", PODS, query=[("labelSelector", f"labctl.dev/job-id={id}")])["items"]
    for pod in pods:
        out["state"] = "running" if pod["status"]["phase"] == "Running" else out["state"]
        for container in pod["status"].get("containerStatuses", []):
            if "terminated" in container["state"]:
                out["exit_code"] = container["state"]["terminated"]["exitCode"]
    if status.get("succeeded"):
        out["state"] = "succeeded"
    if any(c["type"] == "Failed" and c["status"] == "True" for c in status.get("conditions", [])):
        out["state"] = "failed"
    return out


def create(environ):
    try:
        spec = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        name, command = spec["name"], spec["command"]
        if not (isinstance(command, list) and command):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        return "400 Bad Request", {"title": "not a job"}, []
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    id = str(uuid.uuid5(uuid.NAMESPACE_URL, key) if key else uuid.uuid4())
    labels = {"labctl.dev/job-id": id, "labctl.dev/job-name": name, "app": "jobs"}
    job = {
        "metadata": {"name": f"run-{id}", "labels": labels, "annotations": {"key": key or ""}},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 60,
            "ttlSecondsAfterFinished": 300,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "labctl.dev/job-base:0.1.0", "command": command}],
                },
            },
        },
    }
    status = "201 Created"
    try:
        made = kube("POST", BASE, job)
    except KubeError as error:
        if error.status != 409:
            raise
        status, made = "200 OK", kube("GET", f"{BASE}/run-{id}")
    return status, shown(made), [("Location", f"/jobs/{id}")]


def one(environ, id):
    return "200 OK", shown(kube("GET", f"{BASE}/run-{id}")), []


def remove(environ, id):
    kube("DELETE", f"{BASE}/run-{id}", {"propagationPolicy": "Foreground"})
    return "202 Accepted", {"deleting": id}, []


def listed(environ):
    found = kube("GET", BASE, query=[("labelSelector", "app=jobs")])["items"]
    return "200 OK", {"jobs": [shown(job) for job in found], "next": None}, []


ROUTES = [
    ("GET", "/healthz", lambda _: ("200 OK", {"status": "ok"}, [])),
    ("GET", "/jobs", listed),
    ("POST", "/jobs", create),
    ("GET", "/jobs/([a-z0-9-]+)", one),
    ("DELETE", "/jobs/([a-z0-9-]+)", remove),
]


def application(environ, start_response):
    status, document, headers = "404 Not Found", {"title": "not found"}, []
    for method, pattern, handler in ROUTES:
        match = re.fullmatch(pattern, environ["PATH_INFO"])
        if match and method == environ["REQUEST_METHOD"]:
            try:
                status, document, headers = handler(environ, *match.groups())
            except KubeError as error:
                status, document = f"{error.status} {error.reason}", {"title": error.reason}
    body = json.dumps(document).encode()
    kind = "application/json" if status[0] == "2" else "application/problem+json"
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *headers])
    return [body]


class Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    make_server("127.0.0.1", int(os.environ["PORT"]), application, server_class=Threads).serve_forever()
