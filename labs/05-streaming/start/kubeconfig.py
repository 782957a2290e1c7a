"""Writes dashboard.kubeconfig: the cluster that KUBECONFIG names, and a ServiceAccount's token to come in with.

    python kubeconfig.py NAMESPACE ACCOUNT

The token is good for a day. Run it again for another one.
"""

import base64
import json
import os
import sys

from kubernetes import client, config

if len(sys.argv) != 3:
    sys.exit(__doc__)
namespace, account = sys.argv[1:]
config.load_kube_config()
request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
token = client.CoreV1Api().create_namespaced_service_account_token(account, namespace, request).status.token
cluster = client.Configuration.get_default_copy()
with open(cluster.ssl_ca_cert, "rb") as file:
    authority = base64.b64encode(file.read()).decode()
# Whatever is JSON is YAML too.
document = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "lab", "cluster": {"server": cluster.host, "certificate-authority-data": authority}}],
    "users": [{"name": account, "user": {"token": token}}],
    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": account, "namespace": namespace}}],
    "current-context": "lab",
}
with open("dashboard.kubeconfig.new", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
    json.dump(document, file, indent=2)
os.replace("dashboard.kubeconfig.new", "dashboard.kubeconfig")
print(f"dashboard.kubeconfig: {account} of {namespace}, for a day")
