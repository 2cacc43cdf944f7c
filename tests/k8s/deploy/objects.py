"""Nodes and pods as an API server gives them, cut to what is looked at; and an API server that keeps them in memory."""

import copy
from typing import Any
from uuid import uuid4

from kubernetes.client import ApiClient, Configuration

from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.errors import ClusterError

GKE = "cloud.google.com/gke-accelerator"
GFD = "nvidia.com/gpu.product"
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def node(name: str, gpu: str = "nvidia-l4", count: int = 1, **labels: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {GKE: gpu} | labels},
        "spec": {"taints": [TAINT]},
        "status": {
            "allocatable": {"cpu": "4", "nvidia.com/gpu": str(count)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def spec(gpu: str | None = "nvidia-l4", count: int = 1, **fields: Any) -> Document:
    """A pod's, as rendered."""
    resources = {"limits": {"memory": "2Gi"} | ({"nvidia.com/gpu": count} if gpu else {})}
    selector = {"nodeSelector": {GKE: gpu}, "tolerations": [TOLERATION]} if gpu else {}
    return {"containers": [{"name": "server", "image": "tiny:1", "resources": resources}]} | selector | fields


def pod(name: str, on: str | None = None, status: Document | None = None, **fields: Any) -> Document:
    """In the namespace `models`; `on` is its node, `fields` are for its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "models", "uid": uuid4().hex, "labels": {"app": name}},
        "spec": spec(**fields) | ({"nodeName": on} if on else {}),
        "status": status or {"phase": "Running"},
    }


def deployment(name: str = "tiny", **fields: Any) -> Document:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "trtpack"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "models", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec(**fields)},
        },
    }


def service(name: str = "tiny") -> Document:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "trtpack"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "models", "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }


def namespace(name: str = "models") -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


_CORE = (
    "Node",
    "Namespace",
    "Pod",
    "Service",
    "Secret",
    "ConfigMap",
    "ServiceAccount",
    "Event",
    "PersistentVolumeClaim",
)
_KINDS = {"/api/v1": _CORE, "/apis/apps/v1": ("Deployment", "ReplicaSet")}
_GLOBAL = ("Node", "Namespace")


class Memory(Cluster):
    """An API server of Kubernetes 1.20 in memory, with no controller: it holds what it is given.

    An apply replaces the object. `asked` are the requests that it had; a path in `forbidden` is answered with 403.
    """

    def __init__(self, *objects: Document) -> None:
        super().__init__(ApiClient(Configuration()), "models")
        self.objects: dict[str, Document] = {}
        self.asked: list[tuple[str, str]] = []
        self.forbidden: set[str] = set()
        for each in objects:
            self.put(each)

    def put(self, document: Document) -> None:
        """As somebody else would."""
        self.objects[self.path(document)] = copy.deepcopy(document)

    def ask(self, method: str, path: str, query: Any = None, body: Any = None, content_type: str = "") -> Any:
        self.asked.append((method, path))
        if path in self.forbidden:
            raise ClusterError("the cluster answered 403: no", status=403)
        if path == "/version":
            return {"major": "", "minor": "", "gitVersion": "v1.20.2"}
        if path in _KINDS:
            return {
                "resources": [{"kind": k, "name": _plural(k), "namespaced": k not in _GLOBAL} for k in _KINDS[path]]
            }
        if method == "PATCH":
            return self._apply(path, query, body)
        if method == "DELETE":
            return self.objects.pop(path)
        if path in self.objects:
            return self.objects[path]
        last = path.rsplit("/", 1)[1]
        if any(last == _plural(kind) for kinds in _KINDS.values() for kind in kinds):
            return {"items": [each for each in self._within(path) if _chosen(each, query or {})]}
        raise ClusterError("the cluster answered 404: not found", status=404)

    def _apply(self, path: str, query: Any, body: Document) -> Document:
        applied = copy.deepcopy(body)
        applied["metadata"]["managedFields"] = [{"manager": query["fieldManager"], "operation": "Apply"}]
        if "dryRun" not in query:
            self.objects[path] = applied
        return applied

    def _within(self, path: str) -> list[Document]:
        root, _, plural = path.rpartition("/")
        return [each for at, each in self.objects.items() if at.startswith(root) and f"/{plural}/" in at]


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"


def _chosen(document: Document, query: dict[str, str]) -> bool:
    wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
    return wanted.items() <= document["metadata"].get("labels", {}).items()
