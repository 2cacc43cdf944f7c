"""The rendered autoscaler on a real cluster: a queue in front of the one pod makes a second one.

The cluster's own controller decides, by the metric that the pod itself exports. The adapter between the two, which
Google or prometheus-adapter bring elsewhere, is this test: it answers the metrics API from the pods' /metrics. Runs
where KUBECONFIG names a cluster that sees the images of the Docker engine at hand, and whose API server reaches this
machine.
"""

import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

from k8s.deploy.cluster import Cluster
from k8s.deploy.forward import endpoint, forwarded
from tests.command import trtpack
from tests.kube import kubectl, listed
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("cluster")]

GROUP, METRIC = "custom.metrics.k8s.io/v1beta1", "trtpack_num_requests_waiting"
PORT = 8080


def waiting(namespace: str, pod: str) -> float:
    text = kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{PORT}/proxy/metrics")
    (value,) = (each.samples[0].value for each in text_string_to_metric_families(text) if each.name == METRIC)
    return value


class Adapter(BaseHTTPRequestHandler):
    """The API's two answers (kubernetes/metrics, custom_metrics/v1beta1): what there is, and its value for each pod."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        if path[3:] == []:
            resource = {"name": f"pods/{METRIC}", "singularName": "", "namespaced": True, "kind": "MetricValueList"}
            content = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP}
            content["resources"] = [resource | {"verbs": ["get"]}]
        else:
            content = {"kind": "MetricValueList", "apiVersion": GROUP, "metadata": {}, "items": self._values(path[4])}
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def _values(namespace: str) -> list[dict[str, Any]]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        running = (each for each in listed("pods", "--namespace", namespace) if each["status"]["phase"] == "Running")
        return [
            {
                "describedObject": {"kind": "Pod", "namespace": namespace, "name": name, "apiVersion": "/v1"},
                "metricName": METRIC,
                "timestamp": now,
                "value": f"{waiting(namespace, name):.0f}",
            }
            for name in (each["metadata"]["name"] for each in running)
        ]

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def adapter(namespace: str, tmp_path: Path) -> Iterator[None]:
    """Registered with the API server, which finds it by a name of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Adapter) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "adapter", "namespace": namespace}}
        service |= {"spec": {"type": "ExternalName", "externalName": "localhost"}}
        group, version = GROUP.split("/")
        api = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{version}.{group}"},
        }
        api |= {
            "spec": {
                "group": group,
                "version": version,
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": "adapter", "namespace": namespace, "port": server.server_address[1]},
            }
        }
        kubectl(
            "create", "--filename", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, api]})
        )
        try:
            kubectl("wait", "--for=condition=Available", f"apiservice/{version}.{group}", "--timeout=60s")
            yield
        finally:
            kubectl("delete", "apiservice", f"{version}.{group}")
            server.shutdown()


def _certificate(folder: Path) -> Path:
    """Of localhost, signed by itself, with its key."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
    )
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(hours=1)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "adapter.pem"
    path.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def test_a_queue_makes_a_second_pod(tiny_package: Path, tiny_image: str, namespace: str, adapter: None) -> None:
    asked = ("--namespace", namespace, "--image", tiny_image, "--gpu", "L4")
    up = trtpack("deploy", tiny_package, *asked, timeout=600)
    assert up.returncode == 0, up.stderr
    _autoscaled(tiny_package, *asked)
    stop = Event()
    cluster = Cluster.connect()
    pod, port = endpoint(cluster, namespace, "tiny")
    with forwarded(cluster, namespace, pod, port) as local, ThreadPoolExecutor(32) as pool:
        asking = [pool.submit(_ask, f"http://127.0.0.1:{local}/v1/models/model:predict", stop) for _ in range(32)]
        try:
            until(lambda: waiting(namespace, pod) > 4)
            until(lambda: _replicas(namespace) == 2, timeout=240)
        finally:
            stop.set()
        assert all(each.result() for each in asking)


def _autoscaled(package: Path, *asked: str) -> None:
    """By the HPA alone that render writes, as the release knows it: autoscaling/v2 was v2beta2 before 1.23."""
    changes = ("--set", "autoscale.most=2", "--set", "autoscale.waiting=4", "--set", "autoscale.metrics=prometheus")
    done = trtpack("render", package, "--stdout", *asked, *changes)
    assert done.returncode == 0, done.stderr
    (hpa,) = (each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "HorizontalPodAutoscaler")
    if not Cluster.connect().knows(hpa["apiVersion"], hpa["kind"]):
        hpa["apiVersion"] = "autoscaling/v2beta2"
    kubectl("create", "--filename", "-", text=json.dumps(hpa))


def _replicas(namespace: str) -> int:
    (deployment,) = listed("deployments", "--namespace", namespace)
    wanted: int = deployment["spec"]["replicas"]
    return wanted


def _ask(url: str, stop: Event) -> int:
    """Answers in turn until `stop`; how many."""
    count = 0
    with httpx.Client(timeout=120, trust_env=False) as client:
        while not stop.is_set():
            client.post(url, json={"prompt": "the quick", "max_new_tokens": 200, "ignore_eos": True}).raise_for_status()
            count += 1
    return count
