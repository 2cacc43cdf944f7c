"""What `load` reads: every field, its default and its meaning."""

from pathlib import Path

import pytest
import yaml

from packager.config import PackageConfig, load
from runtime.engine.manifest import Scheduling

# Truss 0.18's top-level fields and their defaults (truss/config.schema.json), all acted on or warned about.
TRUSS_DEFAULTS = {
    "model_name": None,
    "description": None,
    "model_metadata": {},
    "examples_filename": "examples.yaml",
    "data_dir": "data",
    "bundled_packages_dir": "packages",
    "external_package_dirs": [],
    "external_data": None,
    "python_version": "py313",
    "requirements": [],
    "requirements_file": None,
    "system_packages": [],
    "build_commands": [],
    "environment_variables": {},
    "secrets": {},
    "base_image": None,
    "docker_server": None,
    "model_cache": [],
    "weights": [],
    "trt_llm": None,
    "training_checkpoints": None,
    "bis_llm": None,
    "input_type": "Any",
    "model_framework": "custom",
    "model_type": "Model",
    "model_module_dir": "model",
    "model_class_filename": "model.py",
    "model_class_name": "Model",
    "use_local_src": False,
    "cache_internal": [],
    "live_reload": False,
    "apply_library_patches": True,
    "spec_version": "2.0",
    "bdn": {"mounts": [], "access": [], "hotload": {"enabled": False}},
    "build": {"model_server": "TrussServer", "arguments": {}, "secret_to_path_mapping": {}, "no_cache": False},
    "resources": {
        "cpu": "1",
        "memory": "2Gi",
        "accelerator": None,
        "instance_type": None,
        "node_count": None,
        "fabric": None,
    },
    "runtime": {
        "predict_concurrency": 1,
        "streaming_read_timeout": 60,
        "enable_tracing_data": False,
        "enable_debug_logs": False,
        "transport": {"kind": "http", "ping_interval_seconds": None, "ping_timeout_seconds": None},
        "is_websocket_endpoint": None,
        "health_checks": {
            "restart_check_delay_seconds": None,
            "restart_threshold_seconds": None,
            "stop_traffic_threshold_seconds": None,
            "startup_threshold_seconds": None,
        },
        "oidc": {"enabled": None},
        "remote_ssh": {"enabled": False},
        "egress_restrictions": None,
        "truss_server_version_override": None,
    },
}


def read(folder: Path, text: str) -> PackageConfig:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return load(folder)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "---\n...\n"])
def test_an_empty_file_is_truss_defaults_and_no_engine(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).model_dump(mode="json", exclude={"kubernetes"}) == {**TRUSS_DEFAULTS, "engine": None}


def test_engine_defaults(tmp_path: Path) -> None:
    engine = read(tmp_path, "engine: {checkpoint: hf://a/b}").engine
    assert engine is not None
    assert engine.model_dump() == {
        "source": None,
        "checkpoint": "hf://a/b",
        "backend": "auto",
        "dtype": "bfloat16",
        "quantization": None,
        "group_size": None,
        "calibration": None,
        "weights": None,
        "max_model_len": None,
        "max_batch_size": 64,
        "max_num_tokens": 8192,
        "kv_cache_fraction": None,
        "default_max_new_tokens": 512,
        "scheduling": Scheduling().model_dump(),
        "adapters": {},
        "layers": None,
        "speculation": None,
    }


@pytest.mark.parametrize(
    "source", ["oci://ghcr.io/me/m:1", f"oci://localhost:5000/m@sha256:{'a' * 64}", "hf://me/m@v1"]
)
@pytest.mark.parametrize("more", ["", "trt_llm: {build: {max_batch_size: 8}}\n"])
def test_an_engine_that_is_pulled_needs_no_checkpoint(tmp_path: Path, source: str, more: str) -> None:
    engine = read(tmp_path, f"{more}engine: {{source: '{source}'}}").engine
    assert engine is not None
    assert (engine.source, engine.checkpoint, engine.max_batch_size) == (source, "", 8 if more else 64)


@pytest.mark.parametrize(
    ("text", "label", "count", "written"),
    [
        ("L4", "nvidia-l4", 1, "L4"),
        ("A100:2", "nvidia-a100-80gb", 2, "A100:2"),
        ("H100", "nvidia-h100-80gb", 1, "H100"),
        ("nvidia-l4", "nvidia-l4", 1, "L4"),
        ("nvidia-l4:2", "nvidia-l4", 2, "L4:2"),
        ("nvidia-h100-mega-80gb:8", "nvidia-h100-mega-80gb", 8, "nvidia-h100-mega-80gb:8"),
    ],
)
def test_accelerators_by_both_names(tmp_path: Path, text: str, label: str, count: int, written: str) -> None:
    accelerator = read(tmp_path, f"resources: {{accelerator: {text}}}").resources.accelerator
    assert accelerator is not None
    assert (accelerator.gpu.gke_label, accelerator.count, str(accelerator)) == (label, count, written)


@pytest.mark.parametrize(("cpu", "memory"), [("4", "16Gi"), ("500m", "512M"), ("0.5", "1.5Ti"), ("2", "1000000000")])
def test_quantities_quoted_or_not(tmp_path: Path, cpu: str, memory: str) -> None:
    plain = read(tmp_path, f"resources: {{cpu: {cpu}, memory: {memory}}}").resources
    quoted = read(tmp_path, f"resources: {{cpu: '{cpu}', memory: '{memory}'}}").resources
    assert (plain.cpu, plain.memory) == (quoted.cpu, quoted.memory) == (cpu, memory)


def test_environment_values_become_text_and_names_stay_as_written(tmp_path: Path) -> None:
    text = "environment_variables: {A: true, B: False, C: 1, D: 0.5, E: text, ON: on, F: ''}"
    config = read(tmp_path, text)
    expected = {"A": "true", "B": "false", "C": "1", "D": "0.5", "E": "text", "ON": "true", "F": ""}
    assert config.environment_variables == expected


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("SmolLM2 135M", "smollm2-135m"),
        ("x" * 62 + " y", "x" * 62),
        (None, "model"),
        ("日本", "model"),
    ],
)
def test_slug_names_a_service(name: str | None, slug: str) -> None:
    assert PackageConfig(model_name=name).slug == slug


def test_legacy_fields_that_truss_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, "resources: {use_gpu: true}\nruntime: {num_workers: 1}\n")
    assert capsys.readouterr().err == ""


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = "model_metadata: &m {a: 1}\nbuild:\n  arguments:\n    <<: *m\n    b: 2\n"
    assert read(tmp_path, text).build.arguments == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\ntraining_checkpoints: {download_folder: /x}", "2: training_checkpoints: only Baseten's platform"),
        ("bis_llm: {version: a}", "1: bis_llm: only Baseten's platform"),
        ("bdn: {hotload: {enabled: true}}", "1: bdn: only Baseten's platform"),
        ("weights: [{source: hf://a/b, mount_location: /w}]", "1: weights: only Baseten's platform"),
        ("runtime:\n  remote_ssh:\n    enabled: true", "2: runtime.remote_ssh: only Baseten's platform"),
        ("runtime: {oidc: {enabled: true}}", "1: runtime.oidc: only Baseten's platform"),
        ("resources:\n  instance_type: L4:4x16", "2: resources.instance_type: only Baseten's platform"),
        ("live_reload: true", "1: live_reload: this version does not"),
        ("environment_variables: {PORT: 1}", "1: environment_variables.PORT: the platform sets it"),
    ],
)
def test_what_nothing_acts_on_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: str
) -> None:
    read(tmp_path, text)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith(f"warning: {tmp_path}/config.yaml:{line}")


def test_defaults_written_out_warn_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, yaml.safe_dump(TRUSS_DEFAULTS))
    assert capsys.readouterr().err == ""
