"""Which nodes a pod may go to, from the GPU that it needs: selector, affinity terms, tolerations."""

from collections.abc import Iterator

from k8s.gpus import Gpu, counts
from k8s.workload import Nodes

Term = dict[str, str]

# The oldest "default" driver branch on GKE (1.28 to 1.33, Container-Optimized OS); newer ones come with "latest".
GKE_DEFAULT_DRIVER = 535

_PRODUCT = "nvidia.com/gpu.product"
_GKE = "cloud.google.com/gke-"
# docs.nvidia.com/datacenter/tesla/mig-user-guide, "Supported GPUs".
_MIG = frozenset({"8.0", "9.0", "10.0", "12.0"})
_PLAIN = Nodes()


def node_selector(gpu: Gpu, nodes: Nodes = _PLAIN) -> dict[str, str]:
    """Labels that a node must all have. Where `nodes.labels` is any, those of the GPU are in `node_terms` instead."""
    terms = node_terms(gpu, nodes)
    selector = terms[0].copy() if len(terms) == 1 else {}
    if nodes.machine_type:
        selector["node.kubernetes.io/instance-type"] = nodes.machine_type
    if gpu.arch != "amd64":
        selector["kubernetes.io/arch"] = gpu.arch
    return selector | dict(sorted(nodes.selector.items()))


def node_terms(gpu: Gpu, nodes: Nodes = _PLAIN) -> list[Term]:
    """Sets of labels that tell the GPU, one of which a node must have."""
    terms = {"gke": _gke(gpu, nodes), "gfd": _gfd(gpu, nodes)}
    if gpu.gke_label is None:
        return [terms["gfd"]]
    return list(terms.values()) if nodes.labels == "any" else [terms[nodes.labels]]


def tolerations(gpu: Gpu, nodes: Nodes = _PLAIN) -> list[dict[str, str]]:
    """Of the taints that GPU nodes carry: GKE's own, those of arm64 pools, and the usual one of spot pools."""
    found = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    for wanted, key, value in (
        (gpu.arch == "arm64", "kubernetes.io/arch", "arm64"),
        (nodes.spot, f"{_GKE}spot", "true"),
    ):
        if wanted:
            found.append({"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"})
    return found


def problems(gpu: Gpu, count: int, nodes: Nodes) -> Iterator[str]:
    """What no node of this GPU can be, in words."""
    if count not in counts(gpu):
        allowed = ", ".join(map(str, counts(gpu)))
        yield f"{count} GPUs a pod do not fit the machines with {gpu.name}; allowed: {allowed}"
    if nodes.machine_type and (nodes.labels == "gke" or gpu.gke_label is None):
        yield from _machine_problems(gpu, count, nodes.machine_type)
    if nodes.partition and gpu.compute_capability not in _MIG:
        yield f"{gpu.name} has no MIG partitions"
    if (nodes.partition or nodes.sharing) and count != 1:
        yield f"a pod has one part of one shared or partitioned GPU, and asks for {count}"
    if nodes.max_shared_clients is not None and not nodes.sharing:
        yield "max_shared_clients is for a shared GPU; set sharing to time-sharing or mps"
    if nodes.spot and nodes.flex_start:
        yield "a node is spot or flex-start, not both"
    if (gpu.gke_label is None or nodes.labels == "gfd") and (only := _only_on_gke(nodes)):
        yield f"{only} is for GKE's own labels, which do not choose {gpu.name} here"


def _machine_problems(gpu: Gpu, count: int, machine: str) -> Iterator[str]:
    """By the table, whose machines with a GKE label are GKE's, and n1-standard a family (n1-standard-8, …)."""
    sizes = next((sizes for name, sizes in gpu.machine_types.items() if f"{machine}-".startswith(f"{name}-")), ())
    if not sizes:
        yield f"{machine} has no {gpu.name}; machines that have: {', '.join(gpu.machine_types)}"
    elif not any(size % count == 0 for size in sizes):
        yield f"{machine} has {', '.join(map(str, sizes))} of {gpu.name}, and a pod asks for {count}"


def _gke(gpu: Gpu, nodes: Nodes) -> Term:
    driver = nodes.driver or ("latest" if gpu.min_driver > GKE_DEFAULT_DRIVER else None)
    pairs = {
        "accelerator": gpu.gke_label,
        "gpu-driver-version": driver,
        "gpu-partition-size": nodes.partition,
        "gpu-sharing-strategy": nodes.sharing,
        "max-shared-clients-per-gpu": nodes.max_shared_clients and str(nodes.max_shared_clients),
        "spot": "true" if nodes.spot else None,
        "flex-start": "true" if nodes.flex_start else None,
    }
    term = {f"{_GKE}{key}": value for key, value in pairs.items() if value}
    return term | ({"cloud.google.com/compute-class": nodes.compute_class} if nodes.compute_class else {})


def _gfd(gpu: Gpu, nodes: Nodes) -> Term:
    """The product's name as it is when the GPU is partitioned (MIG strategy single) or time-sliced.

    Source: NVIDIA/k8s-device-plugin, internal/lm/resource.go.
    """
    partition = f"-MIG-{nodes.partition}" if nodes.partition else ""
    return {_PRODUCT: f"{gpu.gfd_product}{partition}{'-SHARED' if nodes.sharing else ''}"}


def _only_on_gke(nodes: Nodes) -> str | None:
    fields = ("driver", "spot", "flex_start", "compute_class", "max_shared_clients")
    return next((name for name in fields if getattr(nodes, name)), None)
