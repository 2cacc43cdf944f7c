"""A Deployment on its way to what was applied: how far it is, and what keeps it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k8s.deploy.cluster import Cluster, Document, label_selector
from k8s.deploy.diagnosis import Trouble, diagnose
from k8s.deploy.errors import ClusterError
from k8s.deploy.holders import Fleet

_POLL_SECONDS = 1.0
_REVISION = "deployment.kubernetes.io/revision"
_APPS = "apps/v1"
_HASH = "pod-template-hash"


@dataclass(frozen=True)
class Rollout:
    """One look at a Deployment: `pods` are those of its newest revision, `old` those that it replaces."""

    deployment: Document
    pods: Sequence[Document] = ()
    old: Sequence[Document] = ()
    trouble: Trouble | None = None

    @property
    def wanted(self) -> int:
        return int(self.deployment["spec"].get("replicas", 1))

    @property
    def ready(self) -> int:
        return sum(map(is_ready, self.pods))

    @property
    def done(self) -> bool:
        status, generation = self.deployment.get("status", {}), self.deployment["metadata"]["generation"]
        seen = status.get("observedGeneration", 0) >= generation
        new = status.get("updatedReplicas", 0), status.get("availableReplicas", 0), status.get("replicas", 0)
        return seen and new == (self.wanted,) * 3 and not self.old

    def __str__(self) -> str:
        parts = [f"{self.ready} of {self.wanted} ready"]
        parts += [f"{len(self.old)} old to end"] if self.old else []
        states = [self.trouble.message] if self.trouble else sorted({s for pod in self.pods if (s := state(pod))})
        return "; ".join([*parts, *states])


def look(cluster: Cluster, namespace: str, name: str) -> Rollout:
    """Raises ClusterError where there is no such Deployment."""
    deployment = cluster.find("Deployment", name, namespace, _APPS)
    if deployment is None:
        raise ClusterError(f"there is no Deployment {name} in {namespace}", "See: trtpack deploy --help", 404)
    selector = label_selector(deployment["spec"]["selector"]["matchLabels"])
    pods = cluster.list("Pod", namespace=namespace, labelSelector=selector)
    newest = _hash(cluster, deployment, selector)
    ours = [pod for pod in pods if newest and pod["metadata"]["labels"].get(_HASH) == newest]
    # A Job's pods may carry the same labels; only a ReplicaSet's are of a revision.
    others = [pod for pod in pods if pod not in ours and _HASH in pod["metadata"]["labels"]]
    old = [pod for pod in others if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    current = [pod for pod in ours if "deletionTimestamp" not in pod["metadata"]]
    return Rollout(deployment, current, old, _trouble(cluster, deployment, current))


def follow(cluster: Cluster, namespace: str, name: str, told: Callable[[str], None], timeout: float) -> None:
    """Until it is done; `told` gets each new line of how far it is. `timeout` is in seconds.

    Raises ClusterError with the cause where it fails for good, or where time is up.
    """
    end, last = time.monotonic() + timeout, ""
    while True:
        rollout = look(cluster, namespace, name)
        if (line := str(rollout)) != last:
            told(line)
            last = line
        if rollout.done:
            return
        if rollout.trouble and rollout.trouble.final:
            raise ClusterError(f"{name}: {rollout.trouble.message}", rollout.trouble.hint)
        if time.monotonic() > end:
            why = rollout.trouble.message if rollout.trouble else line
            hint = "It goes on: trtpack status shows how far it is; --timeout waits longer."
            raise ClusterError(f"{name} is not ready after {timeout:.0f} s: {why}", hint)
        time.sleep(_POLL_SECONDS)


def is_ready(pod: Document) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def state(pod: Document) -> str:
    """What a pod is at, in a few words; "" when it is ready."""
    if "deletionTimestamp" in pod["metadata"]:
        return "ending"
    if is_ready(pod):
        return ""
    statuses = pod["status"].get("containerStatuses", [])
    if not pod["spec"].get("nodeName"):
        return "waiting for a node"
    if any("running" in each["state"] for each in statuses):
        return "loading the model"
    reasons = [reason for each in statuses if (reason := each["state"].get("waiting", {}).get("reason"))]
    return {"ContainerCreating": "pulling the image"}.get(reasons[0], reasons[0]) if reasons else "starting"


def _hash(cluster: Cluster, deployment: Document, selector: str) -> str | None:
    """The pod-template-hash of its newest revision; None until its controller has seen that."""
    metadata = deployment["metadata"]
    if deployment.get("status", {}).get("observedGeneration", 0) < metadata["generation"]:
        return None
    sets = cluster.list("ReplicaSet", api_version=_APPS, namespace=metadata["namespace"], labelSelector=selector)
    revision = metadata.get("annotations", {}).get(_REVISION)
    hashes = (
        each["metadata"]["labels"].get(_HASH)
        for each in sets
        if each["metadata"].get("annotations", {}).get(_REVISION) == revision
        and any(owner["uid"] == metadata["uid"] for owner in each["metadata"].get("ownerReferences", []))
    )
    return next(hashes, None)


def _trouble(cluster: Cluster, deployment: Document, pods: Sequence[Document]) -> Trouble | None:
    """That of a pod which time will not mend, else of any; else of the Deployment, as where a quota is used up."""
    status, metadata = deployment.get("status", {}), deployment["metadata"]
    if status.get("observedGeneration", 0) < metadata["generation"]:
        return None
    waiting = [pod for pod in pods if not is_ready(pod)]
    fleet = Fleet.read(cluster) if any(not pod["spec"].get("nodeName") for pod in waiting) else None
    found = [trouble for pod in waiting if (trouble := diagnose(pod, _events(cluster, pod), fleet))]
    if found:
        return min(found, key=lambda each: not each.final)
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    failed = conditions.get("ReplicaFailure", {})
    if failed.get("status") == "True":
        message = str(failed.get("message", ""))
        return Trouble(f"the cluster makes no pod: {message.partition(' is forbidden: ')[2] or message}")
    if conditions.get("Progressing", {}).get("reason") == "ProgressDeadlineExceeded" and waiting:
        return Trouble(f"no progress within {deployment['spec']['progressDeadlineSeconds']} s: {state(waiting[0])}")
    return None


def _events(cluster: Cluster, pod: Document) -> list[Document]:
    selector = f"involvedObject.uid={pod['metadata']['uid']}"
    return cluster.list("Event", namespace=pod["metadata"]["namespace"], fieldSelector=selector)
