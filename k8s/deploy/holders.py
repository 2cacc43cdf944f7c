"""The GPUs of a cluster: where they are, and which pods hold them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from k8s.deploy import nodes
from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.errors import ClusterError


@dataclass(frozen=True)
class Fleet:
    """The nodes of a cluster, and the pods on them that ask for GPUs."""

    nodes: Sequence[Document]
    pods: Sequence[Document] = ()

    @classmethod
    def read(cls, cluster: Cluster) -> "Fleet | None":
        """None where the account may not list nodes; without its pods where it may not list those."""
        found = _allowed(cluster, "Node")
        if found is None:
            return None
        running = _allowed(cluster, "Pod", fieldSelector="status.phase!=Succeeded,status.phase!=Failed") or []
        return cls(found, [pod for pod in running if pod["spec"].get("nodeName") and nodes.wanted_gpus(pod["spec"])])

    def missing(self, pod: Document) -> tuple[str, str | None] | None:
        """Why no node could take a pod (its spec) though all were idle, and what to do; None where one could."""
        wanted, count = nodes.wanted_gpu(pod), nodes.wanted_gpus(pod)
        if wanted is None or not count:
            return None
        right = [node for node in self.nodes if nodes.has_gpu(pod, node)]
        if not right:
            return f"no node with {wanted}; {self._told()}", "Name a GPU that it has, or add a node with this one."
        refusing = [f"{_name(node)} ({', '.join(lacking)})" for node in right if (lacking := _refusals(pod, node))]
        if len(refusing) == len(right):
            hint = "Make the node pool with: --accelerator type=...,count=...,gpu-driver-version=latest"
            driver = any("gke-gpu-driver-version" in each for each in refusing)
            return f"no node with {wanted} would take it: {', '.join(refusing)}", hint if driver else None
        largest = max(_allocatable(node) for node in right if not _refusals(pod, node))
        if largest < count:
            return (
                f"no node has {count} {wanted}: the largest has {largest}",
                "Ask for fewer GPUs a pod, or add a node.",
            )
        return None

    def taken(self, pod: Document, but: Collection[str] = ()) -> str | None:
        """Who holds the GPUs that a pod (its spec) would need; None where some node has enough of them free.

        `but` are names ("namespace/pod") of pods to leave out of the count: those that make room for this one.
        """
        wanted, count = nodes.wanted_gpu(pod), nodes.wanted_gpus(pod)
        right = [node for node in self.nodes if nodes.has_gpu(pod, node) and not _refusals(pod, node)]
        if not (wanted and count and right):
            return None
        held = {_name(node): [each for each in self.pods if each["spec"]["nodeName"] == _name(node)] for node in right}
        holding = {name: [each for each in pods if full_name(each) not in but] for name, pods in held.items()}
        if any(_allocatable(node) - _held(holding[_name(node)]) >= count for node in right):
            return None
        holders = ", ".join(sorted(_holder(each) for pods in holding.values() for each in pods)) or "nobody"
        total = sum(map(_allocatable, right))
        return f"waiting for a GPU: {'the one' if total == 1 else f'all {total}'} {wanted} taken by {holders}"

    def _told(self) -> str:
        offered = nodes.offered(self.nodes)
        return f"this cluster has {', '.join(f'{name} ({count})' for name, count in offered.items()) or 'no GPU'}"


def full_name(pod: Document) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _allowed(cluster: Cluster, kind: str, **selectors: str) -> list[Document] | None:
    try:
        return cluster.list(kind, **selectors)
    except ClusterError as error:
        if error.status == 403:
            return None
        raise


def _name(node: Document) -> str:
    return str(node["metadata"]["name"])


def _refusals(pod: Document, node: Document) -> list[str]:
    """Why the node would not take the pod, but for what it has free."""
    lacking = [f"lacks {each}" for each in nodes.unmet(pod, node)]
    taints = [f"taint {each}" for each in nodes.untolerated(pod, node)]
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", []))
    return [*lacking, *taints, *([] if ready else ["not ready"])]


def _allocatable(node: Document) -> int:
    return nodes.gpus(node["status"].get("allocatable", {}))


def _held(pods: Sequence[Document]) -> int:
    return sum(nodes.wanted_gpus(pod["spec"]) for pod in pods)


def _holder(pod: Document) -> str:
    ending = ", ending" if "deletionTimestamp" in pod["metadata"] else ""
    return f"{full_name(pod)} ({nodes.wanted_gpus(pod['spec'])}{ending})"
