"""`trtpack deploy`, `status`, `logs`, `delete` on a cluster in memory: what they print, and how they end."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from k8s.deploy.cluster import Cluster
from packager.cli import main
from tests.k8s.deploy.objects import GKE, Memory, namespace, node
from tests.k8s.deploy.test_deploy_rollout import DONE, READY, of, rolled

CONFIG = "model_name: tiny\nresources: {accelerator: L4}\nenvironment_variables: {GREETING: hello}\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text("class Model: ...\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Memory:
    made = Memory(namespace(), node("a", **{"cloud.google.com/gke-gpu-driver-version": "latest"}))
    monkeypatch.setattr(Cluster, "connect", lambda *_: made)
    return made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def deploy(package: Path, *arguments: str) -> Result:
    return run("deploy", package, "--image", "tiny:1", "--no-wait", *arguments)


def test_it_applies_what_render_writes(package: Path, cluster: Memory) -> None:
    result = deploy(package)
    assert (result.exit_code, result.stdout) == (0, "service/tiny created\ndeployment/tiny created\n")
    deployment = cluster.find("Deployment", "tiny", api_version="apps/v1")
    assert deployment
    assert deployment["spec"]["template"]["spec"]["nodeSelector"][GKE] == "nvidia-l4"
    assert deployment["metadata"]["managedFields"][0]["manager"] == "trtpack"


def test_twice_changes_nothing_and_says_so(package: Path, cluster: Memory) -> None:
    deploy(package)
    result = deploy(package)
    assert result.stdout.splitlines() == [
        "service/tiny unchanged",
        "deployment/tiny unchanged",
        "nothing changed; for a new build of tiny:1, name it by another tag or digest",
    ]


def test_a_dry_run_applies_nothing(package: Path, cluster: Memory) -> None:
    result = deploy(package, "--dry-run", "server")
    assert result.stdout == "service/tiny created (server dry run)\ndeployment/tiny created (server dry run)\n"
    assert cluster.find("Deployment", "tiny", api_version="apps/v1") is None


def test_diff(package: Path, cluster: Memory) -> None:
    deploy(package)
    assert deploy(package, "--diff").stdout == "nothing would change\n"
    changed = deploy(package, "--diff", "--replicas", "3").stdout.splitlines()
    assert [line for line in changed if line.startswith(("- ", "+ "))] == ["-  replicas: 1", "+  replicas: 3"]


def test_a_gpu_type_that_is_left_out_goes(package: Path, cluster: Memory) -> None:
    cluster.put(node("b", "nvidia-tesla-t4", **{"cloud.google.com/gke-gpu-driver-version": "latest"}))
    deploy(package, "--gpu", "L4", "--gpu", "T4")
    shown = deploy(package, "--gpu", "L4", "--diff").stdout
    assert "--- deployment/tiny-l4 (in the cluster)" in shown
    result = deploy(package, "--gpu", "L4")
    assert result.stdout.splitlines()[1:] == [
        "deployment/tiny created",
        "deployment/tiny-l4 deleted",
        "deployment/tiny-tesla-t4 deleted",
    ]


def test_a_gpu_that_no_node_has_is_told_and_nothing_is_applied(package: Path, cluster: Memory) -> None:
    result = deploy(package, "--gpu", "H100")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: no node with nvidia-h100-80gb; this cluster has nvidia-l4 (1)",
        "  Name a GPU that it has, or add a node with this one. Where nodes are made on demand: --new-nodes",
    ]
    assert not any(method == "PATCH" for method, _ in cluster.asked)


def test_an_interrupt_between_two_objects_is_heard_when_all_are_applied(
    package: Path, cluster: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = cluster.apply

    def interrupted(document: dict[str, Any], dry_run: bool = False) -> dict[str, Any]:
        if document["kind"] == "Service" and not dry_run:
            os.kill(os.getpid(), signal.SIGINT)
        return apply(document, dry_run)

    monkeypatch.setattr(cluster, "apply", interrupted)
    assert deploy(package).exit_code == 130
    assert cluster.find("Deployment", "tiny", api_version="apps/v1")


def test_status_of_nothing(cluster: Memory) -> None:
    result = run("status", "models/tiny")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (1, "error: nothing is deployed as models/tiny")


def test_status_as_json_and_its_exit_code(package: Path, cluster: Memory) -> None:
    deploy(package)
    deployment = cluster.find("Deployment", "tiny", api_version="apps/v1")
    assert deployment
    deployment["metadata"] |= {"generation": 1, "uid": "d"}
    result = run("status", package, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert told["objects"] == ["deployment/tiny", "service/tiny"]
    assert (told["deployments"][0]["ready"], told["deployments"][0]["wanted"]) == (0, 1)


def test_status_is_a_line_and_one_for_each_pod(cluster: Memory) -> None:
    deployment, *sets = rolled(**DONE)
    deployment["metadata"]["managedFields"] = [{"manager": "trtpack"}]
    again = {"containerStatuses": [{"name": "server", "restartCount": 3, "state": {"running": {}}}]}
    for each in (deployment, *sets, of(2, "tiny-new", READY | again)):
        cluster.objects[cluster.path(each)] = each
    result = run("status", "tiny")
    assert (result.exit_code, result.stdout) == (
        0,
        "models/tiny: 1 of 1 ready\n  tiny-new  a  nvidia-l4 x1  ready  3 restarts\n",
    )


def test_logs_of_nothing(cluster: Memory) -> None:
    assert "error: models/tiny has no pod" in run("logs", "tiny").stderr


def test_delete_and_delete_again(package: Path, cluster: Memory) -> None:
    deploy(package)
    assert run("delete", package).stdout == "deployment/tiny deleted\nservice/tiny deleted\n"
    assert run("delete", package).stdout == "nothing is deployed as models/tiny\n"


@pytest.mark.parametrize("command", ["status", "logs", "delete"])
def test_neither_a_package_nor_a_name(command: str, cluster: Memory, tmp_path: Path) -> None:
    assert "no config.yaml there" in run(command, f"{tmp_path}/").stderr


def test_a_cluster_that_does_not_answer(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: x, users: [],"
        " clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}],"
        " contexts: [{name: x, context: {cluster: x, user: ''}}]}"
    )
    monkeypatch.setenv("KUBECONFIG", str(config))
    result = deploy(package)
    assert result.exit_code == 1
    assert "error: no API server answers at http://127.0.0.1:1: " in result.stderr
    assert "Traceback" not in result.stderr


def test_no_kubeconfig(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = deploy(package)
    assert (result.exit_code, "error: no cluster is set: " in result.stderr) == (1, True)
