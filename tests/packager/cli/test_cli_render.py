"""`trtpack render`."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from packager.cli import main
from runtime.engine.manifest import FILE_NAME, File, Limits
from tests.plans import make_engine

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


def write_manifest(folder: Path, size: int, max_model_len: int) -> None:
    """An engine's manifest that speaks of one file of that size."""
    limits = Limits(max_model_len=max_model_len, max_batch_size=8, max_num_tokens=512)
    made = make_engine(folder, backend="torch", limits=limits)
    one = {"weights/a.safetensors": File(size=size, sha256="0" * 64)}
    (folder / FILE_NAME).write_text(made.model_copy(update={"files": one}).dump())


def deployment(result: Result) -> Any:
    return next(document for document in yaml.safe_load_all(result.stdout) if document["kind"] == "Deployment")


def test_it_writes_what_the_config_says(package: Path) -> None:
    result = render(package, "--image", "registry/me/model:1")
    assert (result.exit_code, result.stderr) == (0, "")
    folder = package / "manifests"
    names = ["deployment.yaml", "service.yaml", "kustomization.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert result.stdout.splitlines()[:3] == [f"wrote {folder / name}" for name in names]
    assert f"kubectl apply -k {folder}" in result.stdout
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


def test_what_an_earlier_render_left_is_told_of(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    render(package, "--out", out, "--set", "disruption_budget=true")
    result = render(package, "--out", out, "--image", "a:1")
    left = out / "poddisruptionbudget.yaml"
    assert result.stderr == f"note: {left} is none of these manifests; delete it if an earlier render wrote it\n"
    assert left.name not in (out / "kustomization.yaml").read_text()


def test_the_section_says_what_is_around_the_deployment(package: Path) -> None:
    config = """
kubernetes:
  namespace: models
  gpus: [L4, {gpu: "H100:4", image: "registry/me/h100:1"}]
  nodes: {labels: any}
  secret_env: {HF_TOKEN: hf-secret/token}
  autoscale: {most: 4}
"""
    (package / "config.yaml").write_text(CONFIG + config)
    documents = list(yaml.safe_load_all(render(package, "--stdout", "--image", "a:1").stdout))
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert names == [
        ("Deployment", "my-model-l4"),
        ("Deployment", "my-model-h100-80gb"),
        ("Service", "my-model"),
        ("HorizontalPodAutoscaler", "my-model-l4"),
        ("HorizontalPodAutoscaler", "my-model-h100-80gb"),
    ]
    containers = [document["spec"]["template"]["spec"]["containers"][0] for document in documents[:2]]
    assert [container["image"] for container in containers] == ["a:1", "registry/me/h100:1"]
    assert [container["resources"]["limits"]["nvidia.com/gpu"] for container in containers] == [1, 4]
    assert {document["metadata"]["namespace"] for document in documents} == {"models"}


def test_a_gpu_named_several_times_has_a_deployment_each(package: Path) -> None:
    result = render(package, "--stdout", "--image", "a:1", "--gpu", "L4", "--gpu", "A100")
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(result.stdout)]
    assert names == ["my-model-l4", "my-model-a100-80gb", "my-model"]


def test_an_engine_in_a_registry_is_pulled_by_the_server(tmp_path: Path) -> None:
    config = "model_name: a\nresources: {accelerator: L4}\nengine: {source: oci://registry.example/a:1}\n"
    (tmp_path / "config.yaml").write_text(config)
    pod = deployment(render(tmp_path, "--stdout"))["spec"]["template"]["spec"]
    env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert env["TRTPACK_ENGINE_SOURCE"] == "oci://registry.example/a:1"
    assert {"name": "cache", "emptyDir": {}} in pod["volumes"]


def test_a_start_and_a_stop_follow_from_the_engine(tmp_path: Path) -> None:
    """An engine of 3 GB for 4096 tokens: 300 s, 30 s to read and 150 s to pull it; 204 s for the longest answer."""
    config = "model_name: a\nresources: {accelerator: L4}\nengine: {source: oci://registry.example/a:1}\n"
    (tmp_path / "config.yaml").write_text(config)
    write_manifest(tmp_path / "engine", size=3_000_000_000, max_model_len=4096)
    pod = deployment(render(tmp_path, "--stdout"))["spec"]["template"]["spec"]
    assert pod["containers"][0]["startupProbe"]["failureThreshold"] == 480
    assert pod["terminationGracePeriodSeconds"] == 10 + 4096 // 20
    (cache,) = (volume for volume in pod["volumes"] if volume["name"] == "cache")
    assert cache["emptyDir"] == {"sizeLimit": "5Gi"}
    assert pod["containers"][0]["resources"]["limits"]["ephemeral-storage"] == "15Gi"


def test_a_chart_is_a_folder(package: Path) -> None:
    result = render(package, "--format", "helm", "--image", "a:1")
    folder = package / "chart"
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"helm upgrade --install my-model {folder}" in result.stdout
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"Chart.yaml", "values.yaml", "templates/deployment.yaml", "templates/service.yaml"}
    assert yaml.safe_load((folder / "values.yaml").read_text())["image"] == "a:1"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "autoscale.most=none"], "autoscale.most: "),
        (["--set", "disruption_budgets=true"], "disruption_budgets: "),
        (["--set", "replicas"], "--set replicas is not FIELD=VALUE"),
        (["--set", "nodes.partition=1g.5gb", "--gpu", "L4"], "nvidia-l4 has no MIG partitions"),
        (["--set", "nodes.machine_type=g2-standard-24"], "g2-standard-24 has no nvidia-a100-80gb"),
        (["--set", "engine.how=claim"], "kubernetes.engine is to claim an engine, and does not say which"),
        (["--format", "helm", "--stdout"], "--stdout"),
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


def test_a_queue_that_cannot_form_scales_nothing(package: Path) -> None:
    (package / "config.yaml").write_text(f"{CONFIG}engine: {{checkpoint: hf://a/b, max_batch_size: 8}}\n")
    result = render(package, "--stdout", "--set", "autoscale.most=4")
    assert result.exit_code == 2
    assert "runtime.predict_concurrency (1) is not above engine.max_batch_size (8)" in " ".join(result.stderr.split())
    assert "predict_concurrency: 32" in result.stderr
