"""A Deployment looked at on a cluster in memory, at the stages that its controller takes it through."""

from typing import Any

import pytest

from k8s.deploy.errors import ClusterError
from k8s.deploy.rollout import follow, look
from tests.k8s.deploy.objects import Document, Memory, deployment, node, pod

REVISION = "deployment.kubernetes.io/revision"
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
LOADING = {"phase": "Running", "containerStatuses": [{"name": "server", "restartCount": 0, "state": {"running": {}}}]}
WAITING = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}],
}


def rolled(seen: int = 2, **status: Any) -> list[Document]:
    """A Deployment of generation 2 with its second ReplicaSet; its controller has seen generation `seen`."""
    found = deployment()
    found["metadata"] |= {"uid": "d", "generation": 2, "annotations": {REVISION: "2"}}
    found["status"] = {"observedGeneration": seen} | status
    sets = [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"tiny-{number}",
                "namespace": "models",
                "labels": found["metadata"]["labels"] | {"pod-template-hash": f"h{number}"},
                "annotations": {REVISION: str(number)},
                "ownerReferences": [{"uid": "d"}],
            },
        }
        for number in (1, 2)
    ]
    return [found, *sets]


def of(revision: int, name: str, status: Document, on: str | None = "a") -> Document:
    found = pod(name, on=on, status=status)
    found["metadata"]["labels"] = deployment()["metadata"]["labels"] | {"pod-template-hash": f"h{revision}"}
    return found


DONE = {"updatedReplicas": 1, "availableReplicas": 1, "replicas": 1}


def test_ready_and_alone_is_done() -> None:
    rollout = look(Memory(*rolled(**DONE), of(2, "new", READY)), "models", "tiny")
    assert rollout.done
    assert str(rollout) == "1 of 1 ready"


def test_a_generation_that_was_not_seen_yet_is_not_done() -> None:
    assert not look(Memory(*rolled(seen=1, **DONE), of(2, "new", READY)), "models", "tiny").done


def test_an_old_pod_that_still_answers_is_waited_for() -> None:
    old = of(1, "old", READY)
    old["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    rollout = look(Memory(*rolled(**DONE), of(2, "new", READY), old), "models", "tiny")
    assert not rollout.done
    assert str(rollout) == "1 of 1 ready; 1 old to end"


def test_a_job_of_the_same_name_is_no_old_pod() -> None:
    job = of(1, "compile", READY)
    del job["metadata"]["labels"]["pod-template-hash"]
    assert look(Memory(*rolled(**DONE), of(2, "new", READY), job), "models", "tiny").done


def test_a_pod_that_loads() -> None:
    rollout = look(Memory(*rolled(updatedReplicas=1, replicas=1), of(2, "new", LOADING)), "models", "tiny")
    assert str(rollout) == "0 of 1 ready; loading the model"
    assert rollout.trouble is None


def test_what_an_old_revision_suffers_from_is_not_told() -> None:
    crashed = {"name": "server", "restartCount": 3, "state": {"terminated": {"exitCode": 1, "message": "old"}}}
    broken = of(1, "old", {"phase": "Running", "containerStatuses": [crashed]})
    rollout = look(Memory(*rolled(updatedReplicas=1, replicas=2), broken, of(2, "new", LOADING)), "models", "tiny")
    assert rollout.trouble is None


def test_following_tells_each_stage_once_and_ends_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = {"name": "server", "restartCount": 0, "state": {"terminated": {"exitCode": 1, "message": "boom"}}}
    pods = iter([LOADING, LOADING, {"phase": "Running", "containerStatuses": [crashed]}])
    cluster = Memory(*rolled(updatedReplicas=1, replicas=1))

    def next_stage(_: float) -> None:
        new = of(2, "new", next(pods))
        cluster.objects[cluster.path(new)] = new

    monkeypatch.setattr("k8s.deploy.rollout.time.sleep", next_stage)
    told: list[str] = []
    with pytest.raises(ClusterError) as failure:
        follow(cluster, "models", "tiny", told.append, timeout=60)
    assert failure.value.message == "tiny: the container server ended with exit code 1: boom"
    assert [line.partition("; ")[2] for line in told[:2]] == ["", "loading the model"]
    assert len(told) == 3


def test_time_that_is_up_says_what_it_waited_for() -> None:
    holder = pod("other", on="a")
    cluster = Memory(*rolled(updatedReplicas=1, replicas=1), node("a"), holder, of(2, "new", WAITING, on=None))
    told: list[str] = []
    with pytest.raises(ClusterError) as failure:
        follow(cluster, "models", "tiny", told.append, timeout=0)
    why = "waiting for a GPU: the one nvidia-l4 taken by models/other (1)"
    assert failure.value.message == f"tiny is not ready after 0 s: {why}"
    assert told == [f"0 of 1 ready; {why}"]


def test_a_quota_that_is_used_up() -> None:
    message = 'pods "tiny-2-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
    failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    rollout = look(Memory(*rolled(conditions=[failed])), "models", "tiny")
    assert rollout.trouble and rollout.trouble.final
    assert rollout.trouble.message == (
        "the cluster makes no pod: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1"
    )


def test_a_deployment_that_is_not_there() -> None:
    with pytest.raises(ClusterError, match="no Deployment tiny in models"):
        look(Memory(), "models", "tiny")
