"""`trtpack compile`, as a person calls it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from packager.cli import main
from runtime.engine import manifest
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
    assert (written.target.gpu, written.target.compute_capability) == ("nvidia-l4", "8.9")
    assert written.precision.dtype == "bfloat16"
    assert "LlamaForCausalLM" in result.stdout
    assert f"trtpack serve {package}" in result.stdout


def test_options_go_before_the_config(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint("qwen3", tmp_path / "other" / "qwen3")
    monkeypatch.chdir(tmp_path / "other")
    out = tmp_path / "out"
    result = trtpack(package, "--checkpoint", "qwen3", "--dtype", "float32", "--gpu", "h100", "--out", out)
    assert result.exit_code == 0, result.output
    written = manifest.read(out)
    assert (written.model.architecture, written.model.source) == ("Qwen3ForCausalLM", "qwen3")
    assert (written.precision.dtype, written.target.compute_capability) == ("float32", "9.0")
    assert not (package / "engine").exists()


def test_without_an_accelerator_there_is_no_target(package: Path) -> None:
    (package / "config.yaml").write_text("engine: {checkpoint: ../llama}\n")
    assert trtpack(package).exit_code == 0
    assert manifest.read(package / "engine").target.gpu is None


def test_json_is_all_there_is_on_standard_output(package: Path) -> None:
    result = trtpack(package, "--json")
    told = json.loads(result.stdout)
    assert told["engine"] == str(package / "engine")
    assert told["parameters"] == sum(t for t in (320 * 64 * 2, 64, 3 * (2 * 64 + 128 * 64 + 64 * 64 + 3 * 96 * 64)))
    assert told["size"] == sum(file.size for file in manifest.read(package / "engine").files.values())
    assert (told["architecture"], told["dtype"], told["gpu"]) == ("LlamaForCausalLM", "bfloat16", "nvidia-l4")


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
