"""Which nodes would take a pod: labels, OR-ed terms, taints."""

from typing import Any

import pytest

from k8s.deploy import nodes
from tests.k8s.deploy.objects import GFD, GKE, node, spec


def either(*terms: tuple[str, str, list[str]]) -> dict[str, Any]:
    """Node affinity with one expression a term."""
    found = [{"matchExpressions": [{"key": k, "operator": o, "values": v}]} for k, o, v in terms]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": found}}}


def test_a_selector_is_met_by_a_node_with_all_its_labels() -> None:
    pod = spec() | {"nodeSelector": {GKE: "nvidia-l4", "zone": "a"}}
    assert nodes.unmet(pod, node("one", zone="a")) == []
    assert nodes.unmet(pod, node("two", zone="b")) == ["zone=a"]
    assert nodes.unmet(pod, node("three", "nvidia-tesla-t4")) == [f"{GKE}=nvidia-l4", "zone=a"]


def test_one_of_several_terms_is_enough() -> None:
    pod = spec(None, affinity=either((GKE, "In", ["nvidia-l4"]), (GFD, "In", ["NVIDIA-L4", "NVIDIA-L4-SHARED"])))
    assert nodes.wanted_gpu(pod) == "nvidia-l4"
    assert nodes.unmet(pod, node("gke")) == []
    elsewhere = node("elsewhere")
    elsewhere["metadata"]["labels"] = {GFD: "NVIDIA-L4-SHARED"}
    assert nodes.unmet(pod, elsewhere) == []
    assert nodes.gpu(elsewhere) == "NVIDIA-L4-SHARED"
    assert nodes.unmet(pod, node("other", "nvidia-tesla-t4")) == [f"{GKE}=nvidia-l4"]


@pytest.mark.parametrize(
    ("operator", "values", "met"),
    [
        ("In", ["2", "4"], True),
        ("NotIn", ["4"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
        ("Gt", ["3"], True),
        ("Gt", ["4"], False),
        ("Lt", ["5"], True),
    ],
)
def test_every_operator(operator: str, values: list[str], met: bool) -> None:
    pod = spec(None, affinity=either(("generation", operator, values)))
    assert (nodes.unmet(pod, node("one", generation="4")) == []) is met


@pytest.mark.parametrize(("operator", "met"), [("NotIn", True), ("Gt", False), ("Exists", False)])
def test_a_label_that_is_not_there(operator: str, met: bool) -> None:
    pod = spec(None, affinity=either(("generation", operator, ["4"])))
    assert (nodes.unmet(pod, node("one")) == []) is met


def test_taints_and_what_tolerates_them() -> None:
    assert nodes.untolerated(spec(), node("one")) == []
    assert nodes.untolerated(spec(None), node("one")) == ["nvidia.com/gpu=present"]
    assert nodes.untolerated(spec(None, tolerations=[{"operator": "Exists"}]), node("one")) == []
    equal = {"key": "nvidia.com/gpu", "value": "absent"}
    assert nodes.untolerated(spec(None, tolerations=[equal]), node("one")) == ["nvidia.com/gpu=present"]
    soft = node("soft")
    soft["spec"]["taints"] = [{"key": "k", "effect": "PreferNoSchedule"}]
    assert nodes.untolerated(spec(None), soft) == []


def test_gpus_are_counted_whole_and_in_slices() -> None:
    sliced = node("mig", "nvidia-tesla-a100", 0)
    sliced["status"]["allocatable"] |= {"nvidia.com/mig-1g.5gb": "7"}
    assert nodes.offered([node("b", count=2), node("a", count=4), sliced]) == {"nvidia-l4": 6, "nvidia-tesla-a100": 7}
    assert nodes.wanted_gpus(spec(count=4)) == 4
    assert nodes.wanted_gpus(spec(None)) == 0
