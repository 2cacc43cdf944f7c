"""Which nodes would take a pod, as the scheduler decides it: labels, taints, and how many GPUs.

Rules: kubernetes.io/docs/concepts/scheduling-eviction (assign-pod-node, taint-and-toleration).
"""

from collections.abc import Callable, Iterable

from k8s.deploy.cluster import Document

# Labels that name the GPU type of a node: GKE's, and GPU Feature Discovery's.
GPU_LABELS = ("cloud.google.com/gke-accelerator", "nvidia.com/gpu.product")
_GPU_RESOURCES = ("nvidia.com/gpu", "nvidia.com/mig-")

_OPERATORS: dict[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, wanted: value in wanted,
    "NotIn": lambda value, wanted: value not in wanted,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
    "Gt": lambda value, wanted: value is not None and int(value) > int(wanted[0]),
    "Lt": lambda value, wanted: value is not None and int(value) < int(wanted[0]),
}


def labels(node: Document) -> dict[str, str]:
    found: dict[str, str] = node["metadata"].get("labels", {})
    return found


def gpu(node: Document) -> str | None:
    """The name of its GPU type; None where no label says one."""
    return next((labels(node)[label] for label in GPU_LABELS if label in labels(node)), None)


def gpus(resources: Document) -> int:
    """GPUs, whole or slices, in a list of resources such as `allocatable` or `requests`."""
    return sum(int(amount) for name, amount in resources.items() if name.startswith(_GPU_RESOURCES))


def wanted_gpus(pod: Document) -> int:
    """How many a pod (its spec) asks for: limits and requests of a GPU are the same number."""
    return sum(gpus(each.get("resources", {}).get("limits", {})) for each in pod["containers"])


def wanted_gpu(pod: Document) -> str | None:
    """The GPU type that a pod (its spec) asks for, by the first label of GPU_LABELS that it names."""
    for label in GPU_LABELS:
        if label in pod.get("nodeSelector", {}):
            return str(pod["nodeSelector"][label])
        for term in _terms(pod):
            for each in term.get("matchExpressions", []):
                if each["key"] == label and each["operator"] == "In":
                    return str(each["values"][0])
    return None


def unmet(pod: Document, node: Document) -> list[str]:
    """The labels that a pod (its spec) wants and the node lacks, as "key=value"; of OR-ed terms, the nearest."""
    selector = [{"key": k, "operator": "In", "values": [v]} for k, v in pod.get("nodeSelector", {}).items()]
    terms = [term.get("matchExpressions", []) for term in _terms(pod)] or [[]]
    lacking = [[_told(each) for each in [*selector, *term] if not _holds(each, node)] for term in terms]
    return min(lacking, key=len)


def has_gpu(pod: Document, node: Document) -> bool:
    """Whether the node has the GPU type that the pod (its spec) asks for, whatever its other labels say."""
    missing = {each.partition("=")[0] for each in unmet(pod, node)}
    return gpu(node) is not None and missing.isdisjoint(GPU_LABELS)


def untolerated(pod: Document, node: Document) -> list[str]:
    """The taints that keep a pod (its spec) off the node, as "key=value"."""
    taints = [taint for taint in node["spec"].get("taints", []) if taint["effect"] != "PreferNoSchedule"]
    kept = [taint for taint in taints if not any(_tolerates(each, taint) for each in pod.get("tolerations", []))]
    return [f"{taint['key']}={taint.get('value', '')}".rstrip("=") for taint in kept]


def offered(nodes: Iterable[Document]) -> dict[str, int]:
    """GPU type to how many of it the nodes offer, sorted by name."""
    counts: dict[str, int] = {}
    for node in nodes:
        if name := gpu(node):
            counts[name] = counts.get(name, 0) + gpus(node["status"].get("allocatable", {}))
    return dict(sorted(counts.items()))


def _terms(pod: Document) -> list[Document]:
    required = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms: list[Document] = required.get("nodeSelectorTerms", [])
    return terms


def _holds(expression: Document, node: Document) -> bool:
    value = labels(node).get(expression["key"])
    return _OPERATORS[expression["operator"]](value, expression.get("values", []))


def _told(expression: Document) -> str:
    key: str
    key, operator, values = expression["key"], expression["operator"], " or ".join(expression.get("values", []))
    special = {"In": f"{key}={values}", "Exists": key, "DoesNotExist": f"!{key}"}
    return special.get(operator, f"{key} {operator} {values}")


def _tolerates(toleration: Document, taint: Document) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    same: bool = toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")
    return same
