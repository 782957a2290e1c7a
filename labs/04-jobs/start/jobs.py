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
    # TODO 1: the Job: its name job-<id>, the labels (on its pods too), restartPolicy Never, backoffLimit,
    # activeDeadlineSeconds, ttlSecondsAfterFinished, and one container with IMAGE and the command.
    raise Refused(501, "manifest() is still to be written")


def check(spec):
    """Refuses what cannot become a Job, before Kubernetes sees it."""
    # TODO 2: Refused(422, why) unless spec is an object with a name and a command, which is a list of strings.


def create(spec, key):
    check(spec)
    # TODO 5: the same Idempotency-Key must give the same job.
    id = secrets.token_hex(8)[:13]
    job = batch.create_namespaced_job(NAMESPACE, manifest(id, spec))
    return id, view(job, [])


def list_all():
    pods = core.list_namespaced_pod(NAMESPACE, label_selector=ID).items
    return [
        view(job, [pod for pod in pods if pod.metadata.labels[ID] == job.metadata.labels[ID]])
        for job in batch.list_namespaced_job(NAMESPACE, label_selector=ID).items
    ]


def get(id):
    return view(find(id), pods_of(id))


def delete(id):
    # TODO 4: delete the Job, and its pods with it.
    raise Refused(501, "delete() is still to be written")


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
    # TODO 3: succeeded and failed are conditions of the Job; running is a phase of a pod; else it is pending.
    return "pending"
