"""A pod's status in, one sentence out. The statuses are those of a kubelet of 1.20 and of 1.33."""

import json
from typing import Any

import pytest

from k8s.deploy.diagnosis import Trouble, diagnose
from k8s.deploy.holders import Fleet
from tests.k8s.deploy.objects import node, pod


def container(state: dict[str, Any], last: dict[str, Any] | None = None) -> dict[str, Any]:
    status = {"name": "server", "image": "tiny:1", "state": state, "lastState": last or {}, "restartCount": 0}
    return {"phase": "Pending", "containerStatuses": [status]}


def ended(message: str = "", reason: str = "Error", code: int = 1) -> dict[str, Any]:
    return container({"terminated": {"exitCode": code, "reason": reason, "message": message}})


def told(status: dict[str, Any], *events: str, fleet: Fleet | None = None, **fields: Any) -> Trouble | None:
    found = [{"message": text, "lastTimestamp": f"2026-11-21T00:00:{i:02}Z"} for i, text in enumerate(events)]
    return diagnose(pod("tiny-1", status=status, **fields), found, fleet)


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def test_a_pod_that_starts_has_no_trouble() -> None:
    assert told(container({"waiting": {"reason": "ContainerCreating"}})) is None
    assert told(container({"running": {}})) is None
    assert told(container({"waiting": {"reason": "ErrImagePull", "message": "may pass"}})) is None


def test_an_image_that_is_not_there() -> None:
    waiting = container({"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "tiny:1"'}})
    event = (
        'Failed to pull image "tiny:1": rpc error: code = Unknown desc = Error response from daemon: '
        "manifest for tiny:1 not found: manifest unknown"
    )
    trouble = told(waiting, event, 'Back-off pulling image "tiny:1"')
    assert trouble and trouble.final
    assert trouble.message == ("the image tiny:1 cannot be pulled: manifest for tiny:1 not found: manifest unknown")


def test_an_engine_for_another_gpu() -> None:
    message = "Cannot load the model: the engine's plans are for nvidia-l4 (8.9), and this machine has Tesla T4 (7.5)"
    trouble = told(ended(message))
    assert trouble and trouble.final
    assert trouble.message == message.removeprefix("Cannot load the model: ")


def test_the_same_after_the_container_was_started_again() -> None:
    last = ended("Cannot load the model: no")["containerStatuses"][0]["state"]
    again = container({"waiting": {"reason": "CrashLoopBackOff"}}, last)
    assert told(again) == Trouble("no")


def test_a_crash_tells_the_last_failure_in_its_log() -> None:
    def record(severity: str, message: str) -> str:
        return json.dumps({"severity": severity, "message": message})

    log = "\n".join([record("INFO", "Executing"), record("ERROR", "ValueError('bad')"), record("INFO", "Stopping")])
    trouble = told(ended(log))
    assert trouble and trouble.message == "the container server ended with exit code 1: ValueError('bad')"
    trouble = told(ended("Traceback:\n  File\nKeyError: 'x'\n", code=3))
    assert trouble and trouble.message == "the container server ended with exit code 3: KeyError: 'x'"
    trouble = told(ended("", code=139))
    assert trouble and trouble.message == "the container server ended with exit code 139: Error"


def test_out_of_memory_names_the_limit() -> None:
    trouble = told(ended(reason="OOMKilled", code=137))
    assert trouble and trouble.message == "the pod ran out of memory; its limit is 2Gi"


def test_a_probe_that_failed_too_often() -> None:
    events = (
        "Startup probe failed: HTTP probe failed with statuscode: 503",
        "Container server failed startup probe, will be restarted",
    )
    trouble = told(ended(code=137), *events)
    assert trouble and trouble.message == (
        "the pod was stopped because its startup probe failed: HTTP probe failed with statuscode: 503"
    )
    assert trouble.hint and "startup_threshold_seconds" in trouble.hint


def test_a_secret_that_is_not_there() -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "keys" not found'}
    trouble = told(container({"waiting": waiting}))
    assert trouble and trouble.message == 'the container server cannot start: secret "keys" not found'


def test_an_evicted_pod() -> None:
    trouble = told({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource:\n disk"})
    assert trouble and trouble.message == "the node threw the pod out: The node was low on resource: disk"


def test_a_pod_without_a_node_waits_for_a_gpu_or_says_what_the_scheduler_says() -> None:
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    fleet = Fleet([node("a")], [pod("first", on="a")])
    trouble = told(unscheduled(message), fleet=fleet)
    assert trouble == Trouble("waiting for a GPU: the one nvidia-l4 taken by models/first (1)", final=False)
    trouble = told(unscheduled("0/1 nodes are available: 1 Insufficient cpu."), fleet=Fleet([node("a")]))
    assert trouble and trouble.message == "no node takes the pod: 0/1 nodes are available: 1 Insufficient cpu."
    trouble = told(unscheduled(message), fleet=fleet, gpu="nvidia-h100-80gb")
    assert trouble and trouble.message == "no node with nvidia-h100-80gb; this cluster has nvidia-l4 (1)"
    assert not trouble.final


@pytest.mark.parametrize(
    ("reason", "message", "end"),
    [
        ("TriggeredScaleUp", "pod triggered scale-up: [{https://…/l4-pool 0->1 (max: 1)}]", "; a node is being made"),
        (
            "NotTriggerScaleUp",
            "pod didn't trigger scale-up: 1 max node group size reached",
            "; no node is made: 1 max node group size reached",
        ),
        (
            "FailedScaleUp",
            "Node scale up associated with this pod failed: GCE out of resources.",
            "; no node can be made: Node scale up associated with this pod failed: GCE out of resources.",
        ),
    ],
)
def test_what_the_autoscaler_last_said(reason: str, message: str, end: str) -> None:
    events = [
        {
            "reason": "TriggeredScaleUp",
            "message": "pod triggered scale-up: []",
            "lastTimestamp": "2026-11-21T00:00:01Z",
        },
        {"reason": "FailedScheduling", "message": "0/1 nodes are available", "lastTimestamp": "2026-11-21T00:00:03Z"},
        {"reason": reason, "message": message, "lastTimestamp": "2026-11-21T00:00:02Z"},
    ]
    trouble = diagnose(pod("tiny-1", status=unscheduled("0/1 nodes are available")), events, None)
    assert trouble
    assert trouble.message == f"no node takes the pod: 0/1 nodes are available{end}"
    assert not trouble.final
