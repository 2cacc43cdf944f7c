"""What `trtpack init` lays down is a Truss: Truss, in an environment of its own, loads it and lays out its image."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from packager.cli import main

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
