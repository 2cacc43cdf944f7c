"""What was applied under a name, found again by its labels and its field manager, and removed."""

import time
from collections.abc import Callable

from k8s.deploy.cluster import MANAGER, Cluster, Document
from k8s.deploy.documents import named
from k8s.deploy.errors import ClusterError

# Every kind that may have been applied, those first that make others.
KINDS = (
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("networking.gke.io/v1", "HealthCheckPolicy"),
    ("networking.gke.io/v1", "GCPBackendPolicy"),
    ("networking.k8s.io/v1", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("monitoring.googleapis.com/v1", "PodMonitoring"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "ServiceAccount"),
)
_LABEL = "app.kubernetes.io/name"
_POLL_SECONDS = 0.5


def applied(cluster: Cluster, namespace: str, name: str) -> list[Document]:
    """The objects with the label of `name` that this tool applied. What a person made by hand is not among them."""
    found = [
        each
        for api_version, kind in KINDS
        if cluster.knows(api_version, kind)
        for each in cluster.list(kind, api_version=api_version, namespace=namespace, labelSelector=f"{_LABEL}={name}")
    ]
    return [each for each in found if _ours(each)]


def place(document: Document) -> tuple[str, str] | None:
    """Under which namespace and name `applied` finds a document; None for one without."""
    metadata = document["metadata"]
    name = metadata.get("labels", {}).get(_LABEL)
    return (metadata["namespace"], name) if name and "namespace" in metadata else None


def remove(cluster: Cluster, namespace: str, name: str, told: Callable[[str], None], timeout: float) -> list[Document]:
    """Deletes what was applied, and waits until it and its pods are gone; `timeout` is in seconds.

    Running answers end first: that is what a pod's grace period is for. Raises ClusterError when time is up.
    """
    gone = applied(cluster, namespace, name)
    for each in gone:
        cluster.delete(each)
        told(f"deleting {named(each)}")
    end = time.monotonic() + timeout
    while left := _left(cluster, namespace, name, gone):
        if time.monotonic() > end:
            hint = "They go when their running answers have ended; call it again to wait on."
            raise ClusterError(f"still there after {timeout:.0f} s: {', '.join(map(named, left))}", hint)
        time.sleep(_POLL_SECONDS)
    return gone


def _left(cluster: Cluster, namespace: str, name: str, gone: list[Document]) -> list[Document]:
    pods = cluster.list("Pod", namespace=namespace, labelSelector=f"{_LABEL}={name}") if gone else []
    return [*applied(cluster, namespace, name), *pods]


def _ours(document: Document) -> bool:
    return any(each["manager"] == MANAGER for each in document["metadata"].get("managedFields", []))
