"""A Job on a cluster: made once, followed to its end, told what came of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from k8s.deploy.cluster import MANAGER, Cluster, Document
from k8s.deploy.diagnosis import SCALES_UP, Trouble, diagnose
from k8s.deploy.errors import ClusterError
from k8s.deploy.holders import Fleet

_POLL_SECONDS = 1.0
# How long a cluster autoscaler may take to say that it adds a node; it looks every 10 s
# (kubernetes/autoscaler, cluster-autoscaler/FAQ.md, "scan-interval").
_PATIENCE = 60.0
Told = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """`document` is the Job as it is to be; its name says everything of it, so one that is there is the same one."""

    cluster: Cluster
    document: Document

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.document["metadata"].get("namespace", self.cluster.namespace))

    def ended(self) -> str | None:
        """Complete or Failed; None while it goes on, or where it is not there. Raises ClusterError."""
        return _ended(self.cluster.get(self.document))

    def submit(self) -> bool:
        """Whether it had to be made. Raises ClusterError."""
        collection = self.cluster.path(self.document).rpartition("/")[0]
        try:
            # Not an apply: it refuses fields that an older API server does not know, and a create drops them.
            self.cluster.ask("POST", collection, {"fieldManager": MANAGER}, self.document)
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        return True

    def remove(self) -> None:
        """And its pods; returns when the name is free again. Raises ClusterError."""
        self.cluster.delete(self.document)
        while self.cluster.get(self.document):
            time.sleep(_POLL_SECONDS)

    def follow(self, told: Told, logged: Told, patience: float = _PATIENCE) -> str:
        """Until it ends; returns its pod's termination message.

        `told` gets what it waits for, `logged` each line of its log. A Job that cannot start, since no node has its GPU
        and within `patience` seconds none is on its way, or since its image cannot be pulled, is removed. Raises
        ClusterError with the reason for that, and for a Job that failed.
        """
        last, waiting, seen = "", 0.0, 0
        while True:
            job = self.cluster.get(self.document)
            if job is None:
                raise ClusterError(f"the Job {self.name} was deleted by somebody else")
            pod = self._pod()
            if pod and _has_run(pod):
                seen = self._follow_log(pod, logged, seen)
            if ended := _ended(job):
                return _result(job, ended, self._pod())
            trouble, hopeless = self._trouble(pod) if pod else (None, False)
            if trouble and trouble.message != last:
                told(trouble.message)
                last, waiting = trouble.message, time.monotonic()
            if trouble and (trouble.final or (hopeless and time.monotonic() - waiting >= patience)):
                self.remove()
                raise ClusterError(trouble.message, trouble.hint)
            time.sleep(_POLL_SECONDS)

    def _pod(self) -> Document | None:
        """The newest one: a pod whose node was taken away is followed by another."""
        pods = self.cluster.list("Pod", namespace=self.namespace, labelSelector=f"job-name={self.name}")
        return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)

    def _follow_log(self, pod: Document, logged: Told, seen: int) -> int:
        """From line `seen` on, until the container ends or the connection does; returns how many lines there were."""
        try:
            for line in islice(self.cluster.log(self.namespace, pod["metadata"]["name"], follow=True), seen, None):
                logged(line)
                seen += 1
        except ClusterError as error:
            if error.status not in (None, 400, 404):  # broken off; not there yet, or no more
                raise
        return seen

    def _trouble(self, pod: Document) -> tuple[Trouble | None, bool]:
        """What keeps the pod from starting, and whether nothing is under way that would mend it."""
        if _has_run(pod):
            return None, False
        names = f"involvedObject.name={pod['metadata']['name']}"
        events = self.cluster.list("Event", namespace=self.namespace, fieldSelector=names)
        fleet = Fleet.read(self.cluster)
        scaling = any(event.get("reason") == SCALES_UP for event in events)
        hopeless = fleet is not None and fleet.missing(pod["spec"]) is not None and not scaling
        return diagnose(pod, events, fleet), hopeless


def _ended(job: Document | None) -> str | None:
    conditions = job.get("status", {}).get("conditions", []) if job else []
    true = [each["type"] for each in conditions if each["status"] == "True"]
    return next((kind for kind in ("Complete", "Failed") if kind in true), None)


def _has_run(pod: Document) -> bool:
    return any({"running", "terminated"} & each["state"].keys() for each in _containers(pod))


def _containers(pod: Document) -> list[Document]:
    found: list[Document] = pod["status"].get("containerStatuses", [])
    return found


def _result(job: Document, ended: str, pod: Document | None) -> str:
    states = [each["state"].get("terminated", {}) for each in _containers(pod)] if pod else []
    message = str(states[0].get("message", "")) if states else ""
    if ended == "Complete":
        return message
    why = next(each for each in job["status"]["conditions"] if each["type"] == "Failed")
    if why.get("reason") == "DeadlineExceeded":
        raise ClusterError(f"it took longer than {job['spec']['activeDeadlineSeconds'] / 3600:g} h")
    if pod and states and states[0].get("reason") != "OOMKilled" and (said := last_error(message)):
        raise ClusterError(*said)
    if pod and (trouble := diagnose(pod, [], None)):
        raise ClusterError(trouble.message, trouble.hint)
    raise ClusterError(f"{why.get('message') or why.get('reason') or 'it failed'}")


def last_error(log: str) -> tuple[str, str | None] | None:
    """The last error that one of our commands told in its log, and its hint, which is the indented line after it."""
    lines = log.splitlines()
    found = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    if not found:
        return None
    rest = lines[found[-1] + 1 :]
    hint = rest[0].strip() if rest and rest[0].startswith("  ") else None
    return lines[found[-1]].removeprefix("error: "), hint
