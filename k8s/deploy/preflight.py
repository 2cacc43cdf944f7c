"""What would keep a deploy from coming up, found before anything is applied."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from k8s.deploy.cluster import Cluster, Document, label_selector
from k8s.deploy.documents import named, of_kind, pod_spec
from k8s.deploy.errors import ClusterError
from k8s.deploy.holders import Fleet, full_name

# The cluster autoscaler writes it where it runs (kubernetes/autoscaler, FAQ: "How can I check what is going on").
_AUTOSCALER = "cluster-autoscaler-status"


@dataclass(frozen=True)
class Finding:
    """One thing amiss; a `note` where the deploy may go on."""

    message: str
    hint: str | None = None
    note: bool = False


def check(cluster: Cluster, documents: Sequence[Document], new_nodes: bool = False) -> Iterator[Finding]:
    """What is amiss with the cluster, for these documents; with `new_nodes`, a node may yet be made for them."""
    unknown = [each for each in documents if not cluster.knows(each["apiVersion"], each["kind"])]
    for each in unknown:
        message = f"this cluster ({cluster.version}) has no {each['apiVersion']} {each['kind']}"
        yield Finding(message, f"Render without it, or install what brings it: {named(each)} needs it.")
    for namespace in sorted({each["metadata"]["namespace"] for each in documents if each["kind"] != "Namespace"}):
        ours = any(each["metadata"]["name"] == namespace for each in of_kind(documents, "Namespace"))
        if not ours and cluster.find("Namespace", namespace) is None:
            yield Finding(f"there is no namespace {namespace}", f"Create it with: kubectl create namespace {namespace}")
    workloads = of_kind(documents, "Deployment")
    for workload in workloads:
        yield from _references(cluster, documents, workload)
    fleet = Fleet.read(cluster) if workloads else None
    if workloads and fleet is None:
        yield Finding("this account may not list nodes: whether one has the GPU is not checked", note=True)
    if fleet:
        scales = new_nodes or _autoscales(cluster)
        for workload in workloads:
            yield from _gpus(cluster, fleet, workload, scales)


def _gpus(cluster: Cluster, fleet: Fleet, workload: Document, scales: bool) -> Iterator[Finding]:
    pod = pod_spec(workload)
    if missing := fleet.missing(pod):
        message, hint = missing
        if scales:
            yield Finding(f"{message}; it may make one", note=True)
        else:
            yield Finding(message, f"{hint or ''} Where nodes are made on demand: --new-nodes".strip())
    elif workload["spec"].get("replicas", 1) and (taken := fleet.taken(pod, but=_own_pods(cluster, workload))):
        yield Finding(taken, note=True)


def _own_pods(cluster: Cluster, workload: Document) -> list[str]:
    """The pods that a rollout replaces: their GPUs come free for it."""
    selector = label_selector(workload["spec"]["selector"]["matchLabels"])
    pods = cluster.list("Pod", namespace=workload["metadata"]["namespace"], labelSelector=selector)
    return [full_name(pod) for pod in pods]


def _references(cluster: Cluster, documents: Sequence[Document], workload: Document) -> Iterator[Finding]:
    """Secrets, ConfigMaps, claims and the ServiceAccount that the pods name, and that are neither there nor ours."""
    namespace = workload["metadata"]["namespace"]
    for kind, name, optional in dict.fromkeys(referred(pod_spec(workload))):
        ours = any(each["metadata"]["name"] == name for each in of_kind(documents, kind))
        try:
            absent = not ours and cluster.find(kind, name, namespace) is None
        except ClusterError as error:
            if error.status != 403:
                raise
            continue
        if absent:
            where = f"there is no {kind} {name} in {namespace}"
            yield Finding(f"{where}, which {named(workload)} {'may read' if optional else 'needs'}", note=optional)


def referred(pod: Document) -> Iterator[tuple[str, str, bool]]:
    """Kind, name and whether it is optional, of every object that a pod (its spec) names."""
    for secret in pod.get("imagePullSecrets", []):
        yield "Secret", secret["name"], True
    if account := pod.get("serviceAccountName"):
        yield "ServiceAccount", account, False
    for volume in pod.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], volume["secret"].get("optional", False)
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], volume["configMap"].get("optional", False)
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], False
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for variable in container.get("env", []):
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if source := variable.get("valueFrom", {}).get(key):
                    yield kind, source["name"], source.get("optional", False)


def _autoscales(cluster: Cluster) -> bool:
    try:
        return cluster.find("ConfigMap", _AUTOSCALER, "kube-system") is not None
    except ClusterError:
        return False
