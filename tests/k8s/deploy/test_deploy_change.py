"""Files to documents to what an apply changes."""

import copy

import pytest

from k8s.deploy.change import apply, prune
from k8s.deploy.cluster import Document
from k8s.deploy.documents import documents
from k8s.deploy.errors import ClusterError
from tests.k8s.deploy.objects import Memory, deployment, namespace, service

FILES = {
    "deployment.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: tiny}\n",
    "kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n",
    "more.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: tiny, namespace: own}\n---\n"
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: models}\n---\n",
}


def test_documents_come_in_the_order_in_which_they_are_needed() -> None:
    found = documents(FILES, "models")
    assert [each["kind"] for each in found] == ["Namespace", "Service", "Deployment"]
    assert [each["metadata"].get("namespace") for each in found] == [None, "own", "models"]


def test_quantities_are_text_whatever_a_person_wrote() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n    - name: a\n      resources:\n"
    (pod,) = documents({"pod.yaml": f"{text}        limits: {{nvidia.com/gpu: 1, cpu: 0.5}}\n"}, "models")
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "1", "cpu": "0.5"}}


def test_created_then_unchanged_then_changed() -> None:
    cluster = Memory()
    wanted = [service(), deployment()]
    assert [change.verb for change in apply(cluster, wanted)] == ["created", "created"]
    assert [change.verb for change in apply(cluster, wanted)] == ["unchanged", "unchanged"]
    wanted[1]["spec"]["replicas"] = 2
    assert [change.verb for change in apply(cluster, wanted)] == ["unchanged", "changed"]


def test_an_autoscaler_begins_with_as_many_as_there_are() -> None:
    """Server-side apply would let go of the number, and the API server default it to 1."""
    cluster, wanted = Memory(), deployment()
    wanted["spec"]["replicas"] = 5
    list(apply(cluster, [wanted]))
    del wanted["spec"]["replicas"]
    assert [change.verb for change in apply(cluster, [wanted])] == ["unchanged"]
    assert cluster.list("Deployment", api_version="apps/v1")[0]["spec"]["replicas"] == 5
    (made,) = apply(Memory(), [wanted])
    assert made.after
    assert "replicas" not in made.after["spec"]


def test_a_dry_run_changes_nothing_and_its_diff_shows_what_would() -> None:
    edited = deployment()
    edited["spec"]["replicas"] = 5
    edited["metadata"] |= {"resourceVersion": "7", "managedFields": [{"manager": "kubectl-edit"}], "generation": 3}
    edited["status"] = {"replicas": 5}
    cluster = Memory(edited)
    before = copy.deepcopy(cluster.objects)
    (change,) = apply(cluster, [deployment()], dry_run=True)
    lines = [line for line in change.diff().splitlines() if line[0] in "+-"]
    assert lines == [
        "--- deployment/tiny (in the cluster)",
        "+++ deployment/tiny (to be)",
        "-  replicas: 5",
        "+  replicas: 1",
    ]
    assert cluster.objects == before


def test_a_diff_of_what_is_not_there_is_all_of_it() -> None:
    (change,) = apply(Memory(), [service()], dry_run=True)
    assert change.verb == "created"
    assert "+kind: Service\n" in change.diff()


def test_a_dry_run_within_a_namespace_that_comes_along() -> None:
    cluster = Memory()
    changes = list(apply(cluster, [namespace(), service()], dry_run=True))
    assert [change.verb for change in changes] == ["created", "created"]
    assert ("PATCH", "/api/v1/namespaces/models/services/tiny") not in cluster.asked


def test_a_refusal_names_the_object() -> None:
    cluster = Memory()
    cluster.forbidden.add("/api/v1/namespaces/models/services/tiny")
    with pytest.raises(ClusterError, match="403"):
        list(apply(cluster, [service()]))


def test_what_is_no_longer_asked_for_is_removed_and_what_others_made_stays() -> None:
    cluster = Memory()
    list(apply(cluster, [service(), deployment(), deployment("other")]))
    by_hand = deployment("by-hand")
    by_hand["metadata"]["labels"] = deployment()["metadata"]["labels"]
    cluster.put(by_hand)
    list(apply(cluster, [_part("tiny-l4"), _part("tiny-a100-80gb")]))
    wanted = [service(), _part("tiny-l4")]
    tried = [(change.verb, change.name) for change in prune(cluster, wanted, dry_run=True)]
    assert tried == [("deleted", "deployment/tiny"), ("deleted", "deployment/tiny-a100-80gb")]
    assert [(change.verb, change.name) for change in prune(cluster, wanted)] == tried
    left = {each["metadata"]["name"] for each in cluster.list("Deployment", api_version="apps/v1")}
    assert left == {"tiny-l4", "other", "by-hand"}
    assert list(prune(cluster, wanted)) == []


def test_a_diff_of_what_is_removed_is_all_of_it() -> None:
    cluster = Memory()
    list(apply(cluster, [service(), _part("tiny-l4")]))
    (change,) = prune(cluster, [service()], dry_run=True)
    assert "-kind: Deployment\n" in change.diff()
    assert "\n+" not in change.diff().partition("@@")[2]


def _part(name: str) -> Document:
    """The Deployment of one GPU type among several."""
    made = deployment(name)
    made["metadata"]["labels"] = deployment()["metadata"]["labels"] | {"app.kubernetes.io/instance": name}
    return made
