"""Which nodes: by GKE's labels, by GPU Feature Discovery's, or by either."""

from typing import Any

import pytest

from k8s.gpus import GPUS, find
from k8s.nodes import node_selector, node_terms, problems, tolerations
from k8s.workload import Nodes

L4, A100 = find("L4"), find("A100")
GKE = {"cloud.google.com/gke-accelerator": "nvidia-l4", "cloud.google.com/gke-gpu-driver-version": "latest"}


@pytest.mark.parametrize(
    ("nodes", "labels"),
    [
        (Nodes(), {}),
        (Nodes(spot=True), {"cloud.google.com/gke-spot": "true"}),
        (Nodes(flex_start=True), {"cloud.google.com/gke-flex-start": "true"}),
        (Nodes(compute_class="l4"), {"cloud.google.com/compute-class": "l4"}),
        (Nodes(driver="default"), {"cloud.google.com/gke-gpu-driver-version": "default"}),
        (Nodes(machine_type="g2-standard-8"), {"node.kubernetes.io/instance-type": "g2-standard-8"}),
        (Nodes(selector={"pool": "a"}), {"pool": "a"}),
        (
            Nodes(sharing="time-sharing", max_shared_clients=3),
            {
                "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing",
                "cloud.google.com/gke-max-shared-clients-per-gpu": "3",
            },
        ),
    ],
)
def test_gke_pools_are_told_apart_by_label(nodes: Nodes, labels: dict[str, str]) -> None:
    assert node_selector(L4, nodes) == GKE | labels


def test_a_partition_has_the_label_of_its_size() -> None:
    labels = node_selector(A100, Nodes(partition="1g.10gb"))
    assert labels["cloud.google.com/gke-gpu-partition-size"] == "1g.10gb"


@pytest.mark.parametrize(
    ("nodes", "product"),
    [
        (Nodes(labels="gfd"), "NVIDIA-A100-SXM4-80GB"),
        (Nodes(labels="gfd", sharing="time-sharing"), "NVIDIA-A100-SXM4-80GB-SHARED"),
        (Nodes(labels="gfd", partition="1g.10gb"), "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"),
    ],
)
def test_products_are_called_what_gpu_feature_discovery_calls_them(nodes: Nodes, product: str) -> None:
    assert node_selector(A100, nodes) == {"nvidia.com/gpu.product": product}


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_any_cluster_is_asked_by_each_label_that_tells_the_gpu(gpu: Any) -> None:
    terms = node_terms(gpu, Nodes(labels="any"))
    found = [term.get("cloud.google.com/gke-accelerator") or term.get("nvidia.com/gpu.product") for term in terms]
    assert found == [value for value in (gpu.gke_label, gpu.gfd_product) if value]


def test_taints_are_tolerated_where_they_are_expected() -> None:
    keys = [toleration["key"] for toleration in tolerations(find("nvidia-gb200"), Nodes(spot=True))]
    assert keys == ["nvidia.com/gpu", "kubernetes.io/arch", "cloud.google.com/gke-spot"]


@pytest.mark.parametrize(
    ("gpu", "count", "nodes", "message"),
    [
        (L4, 3, Nodes(), "3 GPUs a pod do not fit the machines with nvidia-l4; allowed: 1, 2, 4, 8"),
        (L4, 1, Nodes(machine_type="a2-highgpu-1g"), "a2-highgpu-1g has no nvidia-l4"),
        (L4, 4, Nodes(machine_type="g2-standard-24"), "g2-standard-24 has 2 of nvidia-l4, and a pod asks for 4"),
        (L4, 1, Nodes(partition="1g.5gb"), "nvidia-l4 has no MIG partitions"),
        (A100, 2, Nodes(partition="1g.10gb"), "one part of one shared or partitioned GPU, and asks for 2"),
        (L4, 2, Nodes(sharing="mps"), "one part of one shared or partitioned GPU, and asks for 2"),
        (L4, 1, Nodes(max_shared_clients=2), "set sharing"),
        (L4, 1, Nodes(spot=True, flex_start=True), "not both"),
        (L4, 1, Nodes(labels="gfd", spot=True), "spot is for GKE's own labels"),
        (find("L40S"), 1, Nodes(driver="latest"), "driver is for GKE's own labels"),
    ],
)
def test_what_no_node_can_be_is_said(gpu: Any, count: int, nodes: Nodes, message: str) -> None:
    assert any(message in problem for problem in problems(gpu, count, nodes))


@pytest.mark.parametrize(
    ("gpu", "nodes"),
    [
        (find("T4"), Nodes(machine_type="n1-standard-8")),
        (find("nvidia-gb200"), Nodes(machine_type="a4x-highgpu-4g-nolssd")),
        (find("L40S"), Nodes(machine_type="g6e.2xlarge")),
        (find("H100"), Nodes(labels="gfd", machine_type="p5.48xlarge")),
    ],
)
def test_a_machine_with_the_gpu_is_no_problem(gpu: Any, nodes: Nodes) -> None:
    assert list(problems(gpu, 1, nodes)) == []
