"""Truss itself, in an environment of its own: it loads what `trtpack init` lays down, and agrees on `trt_llm:`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic_core import to_jsonable_python

from packager.cli import main
from packager.config import trt_llm
from packager.config.section import Section
from tests.packager.config.trt_llm_cases import CASES

pytestmark = pytest.mark.slow

TRUSS = "truss==0.18.*"
# What pip says, on stderr or stdout, when no index answers; every other failure is ours.
UNREACHABLE = ("NewConnectionError", "ConnectTimeoutError", "ProxyError", "Temporary failure in name resolution")
PROGRAM = """
import json, pathlib, sys, truss
package, context = map(pathlib.Path, sys.argv[1:])
handle = truss.load(package)
handle.docker_build_setup(build_dir=context)
spec = handle.spec
print(json.dumps({
    "name": spec.config.model_name,
    "accelerator": str(spec.config.resources.accelerator.accelerator.value),
    "cpu": spec.config.resources.cpu,
    "memory": spec.config.resources.memory,
    "concurrency": spec.config.runtime.predict_concurrency,
    "class": f"{spec.model_module_name}.{spec.model_class_name}",
}))
"""

# Which of the config.yaml texts on standard input Truss loads.
LOADS = """
import json, pathlib, sys, tempfile, truss
def loads(text):
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.yaml").write_text(text)
        try:
            truss.load(folder)
        except ValueError:
            return False
        return True
print(json.dumps({name: loads(text) for name, text in json.load(sys.stdin).items()}))
"""
# The defaults of the fields of each section of `trt_llm:`.
FIELDS = """
import json
from truss.base import trt_llm_config as t
from pydantic_core import to_jsonable_python
def defaults(model):
    fields = model.model_fields.items()
    given = {k: None if f.is_required() else f.get_default(call_default_factory=True) for k, f in fields}
    return to_jsonable_python(given)
print(json.dumps({name: defaults(getattr(t, theirs)) for name, theirs in NAMES.items()}))
"""
SECTIONS: dict[type[Section], str] = {
    trt_llm.Repository: "CheckpointRepository",
    trt_llm.QuantizationConfig: "TrussTRTQuantizationConfiguration",
    trt_llm.PluginConfiguration: "TrussTRTLLMPluginConfiguration",
    trt_llm.LoraConfiguration: "TrussTRTLLMLoraConfiguration",
    trt_llm.Build: "TrussTRTLLMBuildConfiguration",
    trt_llm.Runtime: "TrussTRTLLMRuntimeConfiguration",
    trt_llm.VersionOverrides: "VersionsOverrides",
    trt_llm.TrtLlm: "TRTLLMConfigurationV1",
}


@pytest.fixture(scope="module")
def truss_python(request: pytest.FixtureRequest) -> Path:
    """The Python of a virtual environment with Truss, kept in pytest's cache between runs."""
    cache = request.config.cache
    assert cache is not None
    folder = cache.mkdir(f"truss-{sys.version_info.major}.{sys.version_info.minor}")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--retries=2", TRUSS]
        done = subprocess.run(pip, capture_output=True, text=True)
        output = done.stdout + done.stderr
        if done.returncode and any(sign in output for sign in UNREACHABLE):
            pytest.skip(f"no package index answers, so {TRUSS} cannot be installed")
        assert done.returncode == 0, output
        (folder / "complete").touch()
    return python


def test_truss_loads_the_template_and_writes_its_build_context(truss_python: Path, tmp_path: Path) -> None:
    package, context = tmp_path / "smollm", tmp_path / "context"
    assert CliRunner().invoke(main, ["init", str(package)]).exit_code == 0
    command = [truss_python, "-c", PROGRAM, package, context]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "name": "smollm",
        "accelerator": "L4",
        "cpu": "3",
        "memory": "10Gi",
        "concurrency": 256,
        "class": "model.Model",
    }
    assert (context / "Dockerfile").is_file()
    assert (context / "model" / "model.py").read_bytes() == (package / "model" / "model.py").read_bytes()


def test_truss_loads_the_trt_llm_sections_that_we_read(truss_python: Path) -> None:
    """All but those that are from its earlier versions."""
    texts = json.dumps({case.name: case.config for case in CASES})
    done = subprocess.run([truss_python, "-c", LOADS], input=texts, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {case.name: case.in_truss for case in CASES}


def test_the_fields_of_trt_llm_and_their_defaults_are_truss_s(truss_python: Path) -> None:
    names = {ours.__name__: theirs for ours, theirs in SECTIONS.items()}
    done = subprocess.run([truss_python, "-c", f"NAMES = {names}\n{FIELDS}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    for section in SECTIONS:
        for name, default in theirs[section.__name__].items():
            field = section.model_fields[name]
            ours = None if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))
            assert _without_legacy(ours) == default, f"{section.__name__}.{name}"


def _without_legacy(default: object) -> object:
    """A section's defaults, less the fields that Truss has no more."""
    gone = {"gemm_plugin", "multi_block_mode"}
    v2 = {"max_seq_len", "max_batch_size", "max_num_tokens", "tensor_parallel_size", "enable_chunked_prefill"}
    if not isinstance(default, dict):
        return default
    return {name: value for name, value in default.items() if name not in gone | v2 | {"patch_kwargs"}}
