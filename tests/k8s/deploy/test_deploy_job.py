"""A Job followed to its end: what is told on the way, what comes of it, and what is left on the cluster."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from k8s.deploy import job as jobs
from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.errors import ClusterError
from k8s.deploy.job import Job, last_error

DOCUMENT = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "tiny-compile-1", "namespace": "ns"},
    "spec": {"activeDeadlineSeconds": 7200},
}
GPU = "cloud.google.com/gke-accelerator"
WANTED = {
    "nodeSelector": {GPU: "nvidia-h100-80gb"},
    "containers": [{"name": "compile", "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "2Gi"}}}],
}
NODE = {
    "metadata": {"name": "n", "labels": {GPU: "nvidia-l4"}},
    "spec": {},
    "status": {"allocatable": {"nvidia.com/gpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]},
}
UNSCHEDULED = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}]}


class Scripted(Cluster):
    """Answers as an API server would that is at step after step of `steps`: a Job's status, and its pod's."""

    def __init__(self, *steps: tuple[Document, Document | None], log: tuple[str, ...] = ()) -> None:
        self.steps, self.lines, self.events = list(steps), log, list[Document]()
        self.there, self.deleted, self.namespace = True, False, "ns"

    def get(self, document: Document) -> Document | None:
        if not self.there or self.deleted:
            return None
        self.now = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return {**document, "status": self.now[0]}

    def list(
        self, kind: str, *, api_version: str = "v1", namespace: str | None = None, **selectors: str
    ) -> list[Document]:
        status = self.now[1]
        pod = {"metadata": {"name": "p", "creationTimestamp": "1"}, "spec": WANTED, "status": status}
        found = {"Pod": [pod] if status is not None and selectors.get("labelSelector") else [], "Node": [NODE]}
        return found.get(kind, self.events)

    def log(self, namespace: str, pod: str, *, follow: bool = False, **query: str) -> Iterator[str]:
        yield from self.lines

    def delete(self, document: Document) -> None:
        self.deleted = True

    def path(self, document: Document) -> str:
        return "/apis/batch/v1/namespaces/ns/jobs/tiny-compile-1"

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        content_type: str = "application/json",
    ) -> Any:
        assert (method, path, body) == ("POST", "/apis/batch/v1/namespaces/ns/jobs", DOCUMENT)
        if self.there:
            raise ClusterError("it exists", status=409)
        self.there = True


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0)


def ended(kind: str, **more: str) -> Document:
    return {"conditions": [{"type": kind, "status": "True", **more}]}


def container(**state: Document) -> Document:
    return {"containerStatuses": [{"name": "compile", "image": "i", "state": state}]}


def follow(cluster: Cluster, patience: float = 0) -> tuple[str, list[str], list[str]]:
    told, logged = list[str](), list[str]()
    return Job(cluster, DOCUMENT).follow(told.append, logged.append, patience), told, logged


def test_the_log_and_then_the_result() -> None:
    running, over = container(running={}), container(terminated={"exitCode": 0, "message": "oci://r/e@sha256:1"})
    cluster = Scripted(({}, None), ({}, UNSCHEDULED | {}), ({}, running), (ended("Complete"), over), log=("one", "two"))
    cluster.events = [{"reason": "TriggeredScaleUp", "message": "a node comes"}]
    result, told, logged = follow(cluster)
    assert (result, logged) == ("oci://r/e@sha256:1", ["one", "two"])
    assert told == ["no node with nvidia-h100-80gb; this cluster has nvidia-l4 (1); a node is being made"]
    assert not cluster.deleted


def test_a_log_that_breaks_off_goes_on_where_it_was() -> None:
    class Breaking(Scripted):
        def log(self, namespace: str, pod: str, *, follow: bool = False, **query: str) -> Iterator[str]:
            yield "one"
            if len(self.steps) > 1:
                raise ClusterError("no API server answers")
            yield "two"

    over = container(terminated={"exitCode": 0, "message": "oci://r/e@sha256:1"})
    assert follow(Breaking(({}, container(running={})), (ended("Complete"), over)))[2] == ["one", "two"]


def test_no_node_on_its_way_ends_it_and_leaves_nothing() -> None:
    cluster = Scripted(({}, UNSCHEDULED))
    with pytest.raises(ClusterError, match=r"no node with nvidia-h100-80gb; this cluster has nvidia-l4 \(1\)"):
        follow(cluster)
    assert cluster.deleted


def test_an_image_that_cannot_be_pulled_ends_it_and_leaves_nothing() -> None:
    waiting = container(waiting={"reason": "ImagePullBackOff", "message": "not found"})
    cluster = Scripted(({}, waiting))
    with pytest.raises(ClusterError, match="the image i cannot be pulled"):
        follow(cluster)
    assert cluster.deleted


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        ({"exitCode": 1, "message": "x\nerror: a is wrong\n  Mend it.\n"}, "BackoffLimitExceeded", "a is wrong"),
        ({"exitCode": 137, "reason": "OOMKilled", "message": "error: old"}, "x", "ran out of memory; its limit is 2Gi"),
        ({"exitCode": 137, "message": "error: old"}, "DeadlineExceeded", "it took longer than 2 h"),
        ({"exitCode": 3, "message": "Traceback\nValueError: 1"}, "x", "ended with exit code 3: ValueError: 1"),
    ],
)
def test_why_it_failed(state: Document, reason: str, message: str) -> None:
    cluster = Scripted((ended("Failed", reason=reason), container(terminated=state)))
    with pytest.raises(ClusterError, match=message) as failure:
        follow(cluster)
    assert failure.value.hint == ("Mend it." if "Mend" in state["message"] else failure.value.hint)
    assert not cluster.deleted


def test_a_job_whose_pod_is_gone_still_says_that_it_failed() -> None:
    with pytest.raises(ClusterError, match="Job has reached the specified backoff limit"):
        follow(Scripted((ended("Failed", message="Job has reached the specified backoff limit"), None)))


def test_a_job_that_somebody_deletes_is_not_waited_for() -> None:
    cluster = Scripted(({}, None))
    cluster.deleted = True
    with pytest.raises(ClusterError, match="deleted by somebody else"):
        follow(cluster)


def test_it_is_made_once() -> None:
    cluster = Scripted(({}, None))
    cluster.there = False
    job = Job(cluster, DOCUMENT)
    assert [job.submit(), job.submit()] == [True, False]


def test_the_last_error_of_a_log_and_its_hint() -> None:
    assert last_error("error: one\nerror: two\n  do this\nmore") == ("two", "do this")
    assert last_error("error: one\nnot indented") == ("one", None)
    assert last_error("fine\n") is None
