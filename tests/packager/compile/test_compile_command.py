"""`trtpack compile`, as a person calls it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from packager.cli import main
from runtime.engine import manifest, plan
from runtime.engine.manifest import Target
from tests.tiny import make_checkpoint


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose checkpoint lies beside it."""
    folder = tmp_path / "package"
    folder.mkdir()
    make_checkpoint("llama", tmp_path / "llama")
    (folder / "config.yaml").write_text(
        "model_name: tiny\nresources: {accelerator: L4}\nengine: {checkpoint: ../llama, max_model_len: 64}\n"
    )
    (folder / "model").mkdir()
    (folder / "model" / "model.py").write_text("class Model: ...\n")
    return folder


def trtpack(*args: object) -> Result:
    return CliRunner().invoke(main, ["compile", *map(str, args)])


def test_compiles_into_the_package(package: Path) -> None:
    result = trtpack(package)
    assert result.exit_code == 0, result.output
    written = manifest.read(package / "engine")
    manifest.verify(package / "engine", written)
    assert (written.model.source, written.limits.max_model_len) == ("../llama", 64)
    assert written.backend.name == "tensorrt-rtx"
    assert written.targets == (Target(gpu="nvidia-l4", compute_capability="8.9"),)
    assert {name for name in written.files if name.startswith("plans/")} == {
        f"plans/sm89/{kind}.plan" for kind in ("opening", "middle", "closing", "head")
    }
    assert written.precision.dtype == "bfloat16"
    assert "LlamaForCausalLM" in result.stdout
    assert f"trtpack serve {package}" in result.stdout


def test_options_go_before_the_config(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint("qwen3", tmp_path / "other" / "qwen3")
    monkeypatch.chdir(tmp_path / "other")
    out = tmp_path / "out"
    options = ("--dtype", "float32", "--gpu", "h100", "--backend", "torch", "--out", out)
    result = trtpack(package, "--checkpoint", "qwen3", *options)
    assert result.exit_code == 0, result.output
    written = manifest.read(out)
    assert (written.model.architecture, written.model.source) == ("Qwen3ForCausalLM", "qwen3")
    assert (written.precision.dtype, written.backend.name) == ("float32", "torch")
    assert written.targets == (Target(gpu="nvidia-h100-80gb", compute_capability="9.0"),)
    assert not (package / "engine").exists()


def test_without_an_accelerator_there_is_no_target(package: Path) -> None:
    (package / "config.yaml").write_text("engine: {checkpoint: ../llama}\n")
    assert trtpack(package).exit_code == 0
    written = manifest.read(package / "engine")
    assert (written.backend.name, written.targets) == ("torch", ())


def test_several_gpus_share_the_weights_and_have_plans_of_their_own(package: Path) -> None:
    result = trtpack(package, "--gpu", "nvidia-l4", "--gpu", "nvidia-rtx-pro-6000", "--gpu", "L40S")
    assert result.exit_code == 0, result.output
    written = manifest.read(package / "engine")
    assert [target.compute_capability for target in written.targets] == ["8.9", "12.0", "8.9"]
    plans = sorted(name for name in written.files if name.startswith("plans/"))
    assert {name.split("/")[1] for name in plans} == {"sm89", "sm120"}
    for name in plans:
        capability = {"sm89": "8.9", "sm120": "12.0"}[name.split("/")[1]]
        assert plan.read(package / "engine" / name).capabilities == (capability,)


@pytest.mark.parametrize("weights", ["inputs", "embedded"])
def test_weights_are_where_they_are_asked_to_be(weights: str, package: Path) -> None:
    result = trtpack(package, "--weights", weights, "--quantization", "int8")
    assert result.exit_code == 0, result.output
    written = manifest.read(package / "engine")
    inside = {name for name in written.files if name.startswith("weights/embedded")}
    middles = {name for name in written.files if name.startswith("plans/sm89/middle")}
    assert written.weights == weights
    assert bool(inside) == (weights == "embedded")
    assert len(middles) == (2 if weights == "embedded" else 1)
    assert all(written.files[name].optional for name in inside)
    assert "perplexity" in result.stdout


def test_an_a100_may_opt_in_to_tensorrt_rtx(package: Path) -> None:
    result = trtpack(package, "--gpu", "A100", "--backend", "tensorrt-rtx")
    assert result.exit_code == 0, result.output
    assert "not in TensorRT-RTX's support matrix" in result.stderr
    assert "plans/sm80/middle.plan" in manifest.read(package / "engine").files


def test_json_is_all_there_is_on_standard_output(package: Path) -> None:
    result = trtpack(package, "--json")
    told = json.loads(result.stdout)
    assert told["engine"] == str(package / "engine")
    assert told["parameters"] == sum(t for t in (320 * 64 * 2, 64, 3 * (2 * 64 + 128 * 64 + 64 * 64 + 3 * 96 * 64)))
    assert told["size"] == sum(file.size for file in manifest.read(package / "engine").files.values())
    assert (told["architecture"], told["dtype"], told["gpus"]) == ("LlamaForCausalLM", "bfloat16", ["nvidia-l4"])


@pytest.mark.parametrize(
    ("config", "args", "code", "message"),
    [
        ("engine: {checkpoint: ../nowhere}", [], 1, "nowhere does not exist"),
        ("model_name: x", [], 2, "names no checkpoint"),
        ("engine: {checkpoint: ../llama}", ["--checkpoint", ""], 2, "names no checkpoint"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "L5"], 2, "L5"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "V100"], 2, "nvidia-tesla-v100 has compute capability 7.0"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "T4"], 2, "nvidia-tesla-t4 has no bfloat16"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "A100:2"], 2, "an engine runs on one GPU"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "A100"], 1, "nvidia-a100-80gb (8.0); this machine has"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "H200"], 1, "nvidia-h200-141gb (9.0); this machine has"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "B200"], 1, "in a Kubernetes Job with that GPU, by --on-cluster"),
        (
            "engine: {checkpoint: ../llama}",
            ["--gpu", "L4", "--gpu", "H100"],
            2,
            "want several (nvidia-l4: tensorrt-rtx",
        ),
        ("engine: {checkpoint: ../llama}", ["--gpu", "H100", "--backend", "tensorrt-rtx"], 2, "does not run"),
        ("engine: {checkpoint: ../llama}", ["--backend", "tensorrt-rtx"], 2, "compiles for a GPU, and none is named"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "A100", "--quantization", "fp8"], 2, "fp8 starts at 8.9"),
        ("engine: {checkpoint: ../llama}", ["--gpu", "A10G", "--quantization", "fp8"], 2, "8.6; fp8 starts at 8.9"),
        (
            "engine: {checkpoint: ../llama, dtype: float16}",
            ["--gpu", "T4", "--quantization", "int4"],
            2,
            "nvidia-tesla-t4 has compute capability 7.5; int4 starts at 8.0",
        ),
        ("engine: {checkpoint: ../llama}", ["--quantization", "int8", "--group-size", "32"], 2, "int4 only"),
        ("engine: {checkpoint: ../llama}", ["--dtype", "float8"], 2, "float8"),
        ("engine: {checkpoint: ../llama, max_model_len: 9999}", [], 2, "max_model_len is 9999"),
    ],
)
def test_what_is_wrong_is_told_without_a_traceback(
    config: str, args: list[str], code: int, message: str, package: Path
) -> None:
    (package / "config.yaml").write_text(config + "\n")
    result = trtpack(package, *args)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (package / "engine").exists()


def test_help_has_an_example() -> None:
    assert "trtpack compile smollm" in trtpack("--help").stdout


@pytest.mark.slow
def test_a_draft_model_gets_plans_of_its_own(package: Path) -> None:
    make_checkpoint("qwen3", package.parent / "small")
    config = package / "config.yaml"
    speculation = "speculation: {method: draft_model, checkpoint: ../small}"
    config.write_text(config.read_text().replace("max_model_len: 64", f"max_model_len: 64, {speculation}"))
    result = trtpack(package, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["speculation"] == {"method": "draft_model", "tokens": 4}
    draft = manifest.read(package / "engine" / "draft")
    manifest.verify(package / "engine" / "draft", draft)
    assert (draft.model.source, draft.backend.name, draft.limits.max_model_len) == ("../small", "tensorrt-rtx", 64)
    assert list(plan.paths(draft))
