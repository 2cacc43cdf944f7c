"""What a deploy would miss, on a cluster in memory."""

from typing import Any

from k8s.deploy.preflight import check
from tests.k8s.deploy.objects import Memory, deployment, namespace, node, pod, service

ENV: dict[str, Any] = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}


def test_a_cluster_with_all_of_it() -> None:
    assert list(check(Memory(namespace(), node("a")), [service(), deployment()])) == []


def test_a_kind_that_this_release_does_not_know() -> None:
    budget = deployment() | {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget"}
    (found,) = check(Memory(namespace(), node("a")), [budget])
    assert found.message == "this cluster (1.20) has no policy/v1 PodDisruptionBudget"
    assert not found.note


def test_a_namespace_that_is_neither_there_nor_rendered() -> None:
    (found,) = check(Memory(node("a")), [deployment()])
    assert (found.message, found.hint) == (
        "there is no namespace models",
        "Create it with: kubectl create namespace models",
    )
    assert list(check(Memory(node("a")), [namespace(), deployment()])) == []


def test_what_the_pods_name() -> None:
    volumes = [
        {"name": "a", "secret": {"secretName": "maybe", "optional": True}},
        {"name": "b", "persistentVolumeClaim": {"claimName": "engines"}},
        {"name": "c", "configMap": {"name": "settings"}},
    ]
    wanted = deployment(volumes=volumes, serviceAccountName="robot", imagePullSecrets=[{"name": "registry"}])
    wanted["spec"]["template"]["spec"]["containers"][0]["env"] = [ENV, ENV]
    found = list(check(Memory(namespace(), node("a")), [wanted]))
    assert [(each.message, each.note) for each in found] == [
        ("there is no Secret registry in models, which deployment/tiny may read", True),
        ("there is no ServiceAccount robot in models, which deployment/tiny needs", False),
        ("there is no Secret maybe in models, which deployment/tiny may read", True),
        ("there is no PersistentVolumeClaim engines in models, which deployment/tiny needs", False),
        ("there is no ConfigMap settings in models, which deployment/tiny needs", False),
        ("there is no Secret keys in models, which deployment/tiny needs", False),
    ]


def test_a_secret_that_is_there_and_an_account_that_comes_along() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "models"}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "models"}}
    wanted = deployment(serviceAccountName="robot")
    wanted["spec"]["template"]["spec"]["containers"][0]["env"] = [ENV]
    assert list(check(Memory(namespace(), node("a"), secret), [account, wanted])) == []


def test_a_gpu_that_no_node_has() -> None:
    cluster = Memory(namespace(), node("a"))
    (found,) = check(cluster, [deployment(gpu="nvidia-h100-80gb")])
    assert found.message == "no node with nvidia-h100-80gb; this cluster has nvidia-l4 (1)"
    assert not found.note
    (found,) = check(cluster, [deployment(gpu="nvidia-h100-80gb")], new_nodes=True)
    assert found.note


def test_a_cluster_that_makes_nodes_is_only_noted() -> None:
    status = {"name": "cluster-autoscaler-status", "namespace": "kube-system"}
    cluster = Memory(namespace(), node("a"), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": status})
    (found,) = check(cluster, [deployment(gpu="nvidia-h100-80gb")])
    assert found.note


def test_a_gpu_that_another_holds_is_noted_and_ones_own_pod_makes_room() -> None:
    holder = pod("other", on="a")
    (found,) = check(Memory(namespace(), node("a"), holder), [deployment()])
    assert (found.message, found.note) == ("waiting for a GPU: the one nvidia-l4 taken by models/other (1)", True)
    holder["metadata"]["labels"] = deployment()["metadata"]["labels"]
    assert list(check(Memory(namespace(), node("a"), holder), [deployment()])) == []


def test_an_account_that_may_not_list_nodes_is_told_so() -> None:
    cluster = Memory(namespace(), node("a"))
    cluster.forbidden.add("/api/v1/nodes")
    (found,) = check(cluster, [deployment(gpu="nvidia-h100-80gb")])
    assert found.note
    assert "may not list nodes" in found.message
