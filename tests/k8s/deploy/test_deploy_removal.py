"""What is removed, on a cluster in memory: what was applied under the name, and nothing else."""

import pytest

from k8s.deploy.change import apply
from k8s.deploy.errors import ClusterError
from k8s.deploy.removal import applied, remove
from tests.k8s.deploy.objects import Memory, deployment, node, pod, service


def test_all_of_it_and_no_more() -> None:
    by_hand = service("tiny-external")
    by_hand["metadata"]["labels"] = service()["metadata"]["labels"]
    cluster = Memory(node("a"), by_hand)
    list(apply(cluster, [service(), deployment(), service("other"), deployment("other")]))
    told: list[str] = []
    assert len(remove(cluster, "models", "tiny", told.append, timeout=5)) == 2
    assert told == ["deleting deployment/tiny", "deleting service/tiny"]
    assert applied(cluster, "models", "tiny") == []
    assert len(applied(cluster, "models", "other")) == 2
    assert cluster.get(by_hand) == by_hand


def test_nothing_there() -> None:
    assert remove(Memory(), "models", "tiny", print, timeout=0) == []


def test_a_pod_that_still_answers_is_named_when_time_is_up() -> None:
    streaming = pod("tiny-1", on="a")
    streaming["metadata"]["labels"] = deployment()["metadata"]["labels"]
    cluster = Memory(streaming)
    list(apply(cluster, [deployment()]))
    with pytest.raises(ClusterError, match="still there after 0 s: pod/tiny-1"):
        remove(cluster, "models", "tiny", print, timeout=0)
