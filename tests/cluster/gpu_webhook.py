"""Stands in for NVIDIA's runtime in a cluster: an admission webhook that gives the simulated driver to pods that name GPUs.

As that does, it looks at the environment (NVIDIA_VISIBLE_DEVICES), in one namespace. A folder of this machine, which devkube's nodes share,
lies in such a container as what the driver is: two libraries where the linker looks, and a device.
"""

import base64
import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from blackstart.injectors.platforms.kube_api import KubeApi, place

ADMISSION = "admissionregistration.k8s.io/v1"
PLACES = {
    "libcuda.so.1": "/usr/lib/libcuda.so.1",
    "libnvidia-ml.so.1": "/usr/lib/libnvidia-ml.so.1",
    "state": "/dev/blackstart-fake-gpu",
}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        answer: dict[str, Any] = {"uid": asked["uid"], "allowed": True}
        if changes := given(asked["object"]["spec"], self.server.driver):
            answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(changes).encode()).decode()}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def given(spec: dict[str, Any], driver: Path) -> list[dict[str, Any]]:
    """Changes of a pod as a JSON Patch; none where it asks for no GPU."""
    (container,) = spec["containers"]
    if not any(each["name"] == "NVIDIA_VISIBLE_DEVICES" for each in container.get("env") or []):
        return []
    found = []
    for number, (name, where) in enumerate(PLACES.items()):
        volume = {"name": f"driver-{number}", "hostPath": {"path": str(driver / name), "type": "File"}}
        found.append({"op": "add", "path": "/spec/volumes/-", "value": volume})
        mount = {"name": f"driver-{number}", "mountPath": where}
        found.append({"op": "add", "path": "/spec/containers/0/volumeMounts/-", "value": mount})
    return found


@contextmanager
def giving(api: KubeApi, namespace: str, driver: Path, folder: Path) -> Iterator[None]:
    """For the pods of that namespace; `folder` keeps a certificate."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        "key",
        "-out",
        "certificate",
        *subject,
    ]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.driver = driver
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    name, bundle = f"{namespace}-driver", base64.b64encode((folder / "certificate").read_bytes()).decode()
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    hook = {
        "name": "driver.blackstart.test",
        "clientConfig": {"url": f"https://127.0.0.1:{server.server_port}/", "caBundle": bundle},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "timeoutSeconds": 5,
    }
    where = place("mutatingwebhookconfigurations", group=ADMISSION)
    api.create(
        where, {"apiVersion": ADMISSION, "kind": "MutatingWebhookConfiguration", "metadata": {"name": name}, "webhooks": [hook]}
    )
    try:
        yield
    finally:
        api.delete(place("mutatingwebhookconfigurations", name=name, group=ADMISSION))
        server.shutdown()
        server.server_close()
