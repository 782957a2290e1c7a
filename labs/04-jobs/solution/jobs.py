"""Jobs as Kubernetes Jobs. Nothing is kept here: what the cluster has is all there is."""

import hashlib
import os
import re
import secrets

from kubernetes import client, config
from kubernetes.client.rest import ApiException

# The file that KUBECONFIG names says where the cluster is, who we are, and perhaps the namespace that is ours.
config.load_kube_config()
NAMESPACE = config.list_kube_config_contexts()[1]["context"].get("namespace", "lab-jobs")
IMAGE = os.environ.get("JOB_IMAGE", "labctl.dev/job-base:0.1.0")
# By these labels a Job and its pods are found again.
ID, NAME = "labctl.dev/job-id", "labctl.dev/job-name"

batch, core = client.BatchV1Api(), client.CoreV1Api()


class Refused(Exception):
    """A request that is not granted, and the HTTP status that says so."""

    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


def manifest(id, spec):
    """Returns the Kubernetes Job for what was asked."""
    labels = {ID: id, NAME: spec["name"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"job-{id}", "labels": labels},
        "spec": {
            "backoffLimit": spec.get("retries", 0),
            "activeDeadlineSeconds": 3600,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "containers": [
                        {"name": "job", "image": spec.get("image", IMAGE), "command": spec["command"]},
                    ],
                },
            },
        },
    }


def check(spec):
    """Refuses what cannot become a Job, before Kubernetes sees it."""
    if not isinstance(spec, dict):
        raise Refused(422, "a job is a JSON object")
    if unknown := spec.keys() - {"name", "command", "image", "retries"}:
        raise Refused(422, f"a job has no {', '.join(sorted(unknown))}")
    name, command, retries = spec.get("name"), spec.get("command"), spec.get("retries", 0)
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", name):
        raise Refused(422, "name: 1 to 63 letters, digits, '-', '_' and '.'")
    if not isinstance(command, list) or not command or not all(isinstance(part, str) for part in command):
        raise Refused(422, "command: a list of strings, the program first")
    if not isinstance(spec.get("image", ""), str):
        raise Refused(422, "image: a string")
    if type(retries) is not int or not 0 <= retries <= 100:
        raise Refused(422, "retries: a number from 0 to 100")


def create(spec, key):
    check(spec)
    # The same key gives the same name, and two objects cannot have one name: the API server keeps the promise.
    id = hashlib.sha256(key.encode()).hexdigest()[:13] if key else secrets.token_hex(8)[:13]
    wanted = manifest(id, spec)
    try:
        job = batch.create_namespaced_job(NAMESPACE, wanted)
    except ApiException as error:
        if error.status != 409:
            raise
        job = find(id)
        if job.spec.template.spec.containers[0].command != spec["command"]:
            raise Refused(422, "this Idempotency-Key was used for another job") from error
    return id, view(job, pods_of(id))


def list_all():
    pods = core.list_namespaced_pod(NAMESPACE, label_selector=ID).items
    return [
        view(job, [pod for pod in pods if pod.metadata.labels[ID] == job.metadata.labels[ID]])
        for job in batch.list_namespaced_job(NAMESPACE, label_selector=ID).items
    ]


def get(id):
    return view(find(id), pods_of(id))


def delete(id):
    find(id)
    # Without a policy the API of Jobs leaves the pods behind.
    batch.delete_namespaced_job(f"job-{id}", NAMESPACE, propagation_policy="Background")


def find(id):
    try:
        return batch.read_namespaced_job(f"job-{id}", NAMESPACE)
    except ApiException as error:
        if error.status != 404:
            raise
        raise Refused(404, f"there is no job {id}") from error


def pods_of(id):
    return core.list_namespaced_pod(NAMESPACE, label_selector=f"{ID}={id}").items


def view(job, pods):
    """Returns a job as the API shows it."""
    pods = sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)
    out = {
        "id": job.metadata.labels[ID],
        "name": job.metadata.labels[NAME],
        "state": state(job, pods),
        "created_at": job.metadata.creation_timestamp.isoformat(),
        "attempts": len(pods),
    }
    ended = [status.state.terminated for pod in pods for status in pod.status.container_statuses or []]
    if ended and ended[-1]:
        out["exit_code"] = ended[-1].exit_code
    return out


def state(job, pods):
    conditions = {condition.type for condition in job.status.conditions or [] if condition.status == "True"}
    if "Complete" in conditions:
        return "succeeded"
    if "Failed" in conditions:
        return "failed"
    # The Job's status has no word for this; its pods do.
    if any(pod.status.phase == "Running" for pod in pods):
        return "running"
    return "pending"
