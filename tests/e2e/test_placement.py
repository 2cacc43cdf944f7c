"""Fifty packages on one cluster with three GPU types: the scheduler binds each to its own, and to no other.

Runs where KUBECONFIG names a cluster that has a node with the label of an L4. The other nodes are made here, with no
kubelet behind them: a pod that is bound to one never starts.
"""

import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from k8s.deploy import nodes
from k8s.gpus import find
from packager.cli import main
from tests.e2e.test_deploy import ABSENT, make_package
from tests.kube import ACCELERATOR, DRIVER, kubectl, listed
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("cluster")]

MADE = {"A100": 8, "T4": 4}
COUNTS = {"A100": (1, 2, 4, 8), "T4": (1, 2, 4), "L4": (1,)}


def make_node(name: str, gpu: str, count: int) -> None:
    labels = {ACCELERATOR: gpu, DRIVER: "latest", "kubernetes.io/hostname": name}
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    metadata = {"name": name, "labels": labels}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [taint]}}
    kubectl("create", "--filename", "-", text=json.dumps(node))
    room = {"nvidia.com/gpu": str(count), "cpu": "96", "memory": "512Gi", "pods": "110", "ephemeral-storage": "2Ti"}
    ready = {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
    status = {"status": {"capacity": room, "allocatable": room, "conditions": [ready]}}
    kubectl("patch", "node", name, "--subresource=status", "--type=merge", "--patch", json.dumps(status))


@pytest.fixture
def made_nodes(l4_node: str) -> Iterator[None]:
    """Beside the L4 an A100 node of 8 and a T4 node of 4."""
    names = {gpu: f"{gpu.lower()}-{uuid.uuid4().hex[:8]}" for gpu in MADE}
    for gpu, name in names.items():
        make_node(name, find(gpu).gke_label or "", MADE[gpu])
    yield
    kubectl("delete", "node", *names.values())


def decided(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return "nodeName" in pod["spec"] or any(each.get("reason") == "Unschedulable" for each in conditions)


def test_fifty_packages_each_to_its_own_gpu(made_nodes: None, namespace: str, tmp_path: Path) -> None:
    chance = random.Random(50)
    wanted = {f"m{i}": (gpu := chance.choice(list(COUNTS)), chance.choice(COUNTS[gpu])) for i in range(50)}
    for name, (gpu, count) in wanted.items():
        package = make_package(tmp_path / name, name)
        words = ["deploy", str(package), "--namespace", namespace, "--image", ABSENT, "--no-wait"]
        done = CliRunner().invoke(main, [*words, "--gpu", f"{gpu}:{count}"])
        assert done.exit_code == 0, done.output

    def all_decided() -> list[dict[str, Any]]:
        pods = listed("pods", "--namespace", namespace)
        return pods if len(pods) == 50 and all(map(decided, pods)) else []

    pods = until(all_decided, 240)
    known = {each["metadata"]["name"]: each for each in listed("nodes")}
    free = {name: nodes.gpus(each["status"]["allocatable"]) for name, each in known.items()}
    for pod in (pod for pod in pods if "nodeName" in pod["spec"]):
        gpu, count = wanted[pod["metadata"]["labels"]["app.kubernetes.io/name"]]
        assert nodes.gpu(known[pod["spec"]["nodeName"]]) == find(gpu).gke_label
        free[pod["spec"]["nodeName"]] -= count
    assert min(free.values()) >= 0
    for pod in (pod for pod in pods if "nodeName" not in pod["spec"]):
        gpu, count = wanted[pod["metadata"]["labels"]["app.kubernetes.io/name"]]
        label = find(gpu).gke_label
        # The only L4 may be another's.
        assert all(free[name] < count for name, each in known.items() if nodes.gpu(each) == label) or gpu == "L4"
    bound = {nodes.gpu(known[pod["spec"]["nodeName"]]) for pod in pods if "nodeName" in pod["spec"]}
    assert bound >= {find(gpu).gke_label for gpu in MADE}
