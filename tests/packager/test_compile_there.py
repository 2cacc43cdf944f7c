"""What a compile on the cluster is made of: what this machine has to say, by commit and by digest."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from k8s.gpus import find
from k8s.render import Workload, render
from packager.cli import main
from packager.config.engine import EngineConfig
from packager.errors import ConfigError
from packager.job import compile_job

DIGEST = f"r.example/me/compiler@sha256:{'a' * 64}"
PLACE = "oci://r.example/me/engine:1"
SERVER = render(Workload(name="tiny", image=DIGEST, gpu=find("H100"), gpu_count=1))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(
        "model_name: tiny\nresources: {accelerator: H100}\n"
        "engine: {checkpoint: data/c}\nsecrets: {token: open sesame}\n"
    )
    return tmp_path


def trtpack(*args: object) -> Result:
    return CliRunner().invoke(main, ["compile", *map(str, args)])


def test_the_command_is_the_one_that_was_typed(package: Path) -> None:
    options = {"gpu": "nvidia-h100-80gb", "dtype": "float16", "group_size": None, "push": PLACE}
    job = compile_job(package, EngineConfig(checkpoint="data/c"), SERVER, DIGEST, options)
    assert job.arguments == (
        *("compile", "/app", "--gpu", "nvidia-h100-80gb", "--dtype", "float16", "--push", PLACE),
        *("--out", "/tmp/engine"),
    )
    assert job.image == DIGEST


def test_no_secret_goes_into_the_job(package: Path) -> None:
    job = compile_job(package, EngineConfig(checkpoint="data/c"), SERVER, DIGEST, {})
    assert "secrets: {token: null}" in job.config
    assert "sesame" not in job.config


@pytest.mark.parametrize("source", ["../c", "/c", "data/../../c"])
def test_a_checkpoint_outside_the_package_is_not_on_the_cluster(package: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="is on this machine, and the Job is not"):
        compile_job(package, EngineConfig(checkpoint=source), SERVER, DIGEST, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on-cluster"], "--on-cluster needs --image and --push"),
        (["--on-cluster", "--push", PLACE], "--on-cluster needs --image and --push"),
        (["--image", DIGEST], "--image goes with --on-cluster"),
        (["--registry-secret", "s"], "--registry-secret goes with --on-cluster"),
        (["--on-cluster", "--image", DIGEST, "--push", PLACE, "--out", "x"], "--out is of this machine"),
        (["--on-cluster", "--image", DIGEST, "--push", "s3://a/b"], "s3://a/b is no place for an engine"),
        (["--on-cluster", "--image", DIGEST, "--push", f"{PLACE}@sha256:{'0' * 64}"], "is no tag to push to"),
        (["--on-cluster", "--image", DIGEST, "--push", PLACE, "--gpu", "L4", "--gpu", "T4"], "and 2 are named"),
        (["--on-cluster", "--image", DIGEST, "--push", PLACE, "--gpu", "V100"], "CUDA 13 starts at 7.5"),
        (["--push", "nowhere"], "nowhere is no place for an engine"),
    ],
)
def test_what_does_not_go_together_is_told_before_any_work(package: Path, arguments: list[str], message: str) -> None:
    result = trtpack(package, *arguments)
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_the_job_can_be_kept_in_git(package: Path) -> None:
    """Without a cluster to ask, the same each time."""
    asked = (package, "--on-cluster", "--image", DIGEST, "--push", PLACE, "--namespace", "models", "--print-job")
    first, second = trtpack(*asked), trtpack(*asked)
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    document = yaml.safe_load(first.stdout)
    assert (document["kind"], document["metadata"]["namespace"]) == ("Job", "models")
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert container["args"][-4:] == ["--push", PLACE, "--out", "/tmp/engine"]


def test_no_cluster_is_told(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    result = trtpack(package, "--on-cluster", "--image", DIGEST, "--push", PLACE)
    assert result.exit_code == 1
    assert "no cluster is set" in result.output


def test_an_engine_that_does_not_answer_is_not_pushed(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for a GPU that is not here; nothing is sent, to a registry that would refuse the connection."""
    shutil.copytree(tiny_checkpoint("llama"), tmp_path / "c")
    (tmp_path / "config.yaml").write_text("model_name: tiny\nengine: {checkpoint: c, max_model_len: 64}\n")
    monkeypatch.setenv("TRTPACK_DEVICE", "tpu")
    result = trtpack(tmp_path, "--push", "oci://127.0.0.1:1/engine:1")
    assert result.exit_code == 1
    assert "TRTPACK_DEVICE is 'tpu'" in result.output
    assert "127.0.0.1:1" not in result.output
