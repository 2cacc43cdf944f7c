"""Rendered manifests on a real cluster: it accepts them, and sends a pod to its GPU and to no other.

Runs where KUBECONFIG names a cluster that has a node with the label of an L4; no GPU need be behind it.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from k8s.gpus import find
from k8s.render import Workload, render
from tests.kube import kubectl, listed
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("cluster")]


def manifests(workload: Workload) -> str:
    return "---\n".join(render(workload).values())


@pytest.fixture
def workload(namespace: str) -> Workload:
    """One L4 in a namespace of its own. No registry has the image: where a pod goes is decided before."""
    return Workload(
        name="tiny",
        image="127.0.0.1:1/tiny:1",
        namespace=namespace,
        gpu=find("L4"),
        gpu_count=1,
        cpu="100m",
        memory="64Mi",
        ephemeral_storage="64Mi",
        secrets=("hf_access_token",),
        drain_seconds=1,
        grace_seconds=2,
    )


def pods(workload: Workload) -> list[dict[str, Any]]:
    return listed("pods", "-n", workload.namespace or "", "-l", f"app.kubernetes.io/name={workload.name}")


def unschedulable(workload: Workload) -> list[str]:
    conditions = [condition for pod in pods(workload) for condition in pod["status"].get("conditions", [])]
    return [condition["message"] for condition in conditions if condition.get("reason") == "Unschedulable"]


def bound_to(workload: Workload) -> list[str]:
    return [pod["spec"]["nodeName"] for pod in pods(workload) if "nodeName" in pod["spec"]]


def test_the_server_accepts_the_manifests(workload: Workload) -> None:
    applied = kubectl("apply", "--dry-run=server", "-f", "-", text=manifests(workload))
    assert applied.splitlines() == [
        "deployment.apps/tiny created (server dry run)",
        "service/tiny created (server dry run)",
    ]


def test_the_server_reads_every_string_as_it_was_given(workload: Workload) -> None:
    env = {
        f"E{i}": text
        for i, text in enumerate(["yes", "y", "1e3", "0x1f", "~", "a: b # c", "'\"\\", "a\nb\t", "é😀", ""])
    }
    rendered = manifests(replace(workload, env=env, labels={"team": "no", "shift": "1e3"}))
    deployment = json.loads(
        kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", text=rendered.split("---")[0])
    )
    expected = yaml.safe_load(rendered.split("---")[0])
    assert deployment["metadata"]["labels"] == expected["metadata"]["labels"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert {entry["name"]: entry.get("value", "") for entry in container["env"]}.items() >= env.items()


def test_a_pod_goes_to_its_gpu_and_the_next_waits_for_one(workload: Workload, l4_node: str) -> None:
    capacity = int(json.loads(kubectl("get", "node", l4_node, "-o", "json"))["status"]["allocatable"]["nvidia.com/gpu"])
    kubectl("apply", "-f", "-", text=manifests(replace(workload, replicas=capacity + 1)))
    assert "Insufficient nvidia.com/gpu" in until(lambda: unschedulable(workload))[0]
    assert until(lambda: len(found := bound_to(workload)) == capacity and found) == [l4_node] * capacity


def test_a_pod_for_another_gpu_stays_pending(workload: Workload) -> None:
    other = replace(workload, gpu=find("A100"))
    kubectl("apply", "-f", "-", text=manifests(other))
    assert until(lambda: unschedulable(other))
    assert bound_to(other) == []
