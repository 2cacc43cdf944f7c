"""`trtpack render`."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from packager.cli import main

CONFIG = """
model_name: My Model
resources: {accelerator: "A100:2", cpu: "6", memory: 40Gi}
environment_variables: {MODE: true}
secrets: {api_key: null}
runtime: {health_checks: {startup_threshold_seconds: 900}}
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def render(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["render", *map(str, args)])


def deployment(result: Result) -> Any:
    return next(document for document in yaml.safe_load_all(result.stdout) if document["kind"] == "Deployment")


def test_it_writes_what_the_config_says(package: Path) -> None:
    result = render(package, "--image", "registry/me/model:1")
    assert (result.exit_code, result.stderr) == (0, "")
    folder = package / "manifests"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["deployment.yaml", "service.yaml"]
    assert result.stdout.splitlines()[:2] == [f"wrote {folder / name}" for name in names]
    assert f"kubectl apply -f {folder}" in result.stdout
    written = yaml.safe_load((folder / "deployment.yaml").read_text())
    pod = written["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert written["metadata"]["name"] == "my-model"
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-a100-80gb"
    assert container["image"] == "registry/me/model:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert (container["resources"]["requests"]["cpu"], container["resources"]["requests"]["memory"]) == ("6", "40Gi")
    assert {"name": "MODE", "value": "true"} in container["env"]
    assert "my-model-secrets" in (folder / "deployment.yaml").read_text()
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 900


def test_options_come_before_the_config(package: Path) -> None:
    result = render(package, "--stdout", "--gpu", "L4", "--namespace", "prod", "--replicas", "3", "--image", "a:1")
    assert result.exit_code == 0
    document = deployment(result)
    assert document["metadata"]["namespace"] == "prod"
    assert document["spec"]["replicas"] == 3
    pod = document["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert not (package / "manifests").exists()


def test_no_accelerator_is_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_name: a")
    text = render(tmp_path, "--stdout").stdout
    assert "nvidia" not in text


def test_the_default_image_is_named_with_a_note(package: Path) -> None:
    result = render(package, "--stdout")
    assert deployment(result)["spec"]["template"]["spec"]["containers"][0]["image"] == "my-model:latest"
    assert result.stderr == "note: the image is my-model:latest; name the one you push with --image REGISTRY/NAME:TAG\n"


def test_again_it_touches_only_what_changed(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    render(package, "--out", out)
    result = render(package, "--out", out, "--replicas", "2")
    assert result.stdout.splitlines()[:2] == [f"wrote {out / 'deployment.yaml'}", f"kept {out / 'service.yaml'}"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--gpu", "L5"], "unknown GPU 'L5'"),
        (["--gpu", "A100:3"], "allowed: 1, 2, 4, 8"),
        (["--namespace", "Not A Name"], "Not A Name"),
        (["--replicas", "-1"], "--replicas"),
    ],
)
def test_what_a_cluster_would_refuse_is_wrong_usage(package: Path, args: list[str], message: str) -> None:
    result = render(package, *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (package / "manifests").exists()


def test_a_folder_without_a_package(tmp_path: Path) -> None:
    result = render(tmp_path)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: {tmp_path / 'config.yaml'} does not exist",
        f"  Create a package with: trtpack init {tmp_path}",
    ]
