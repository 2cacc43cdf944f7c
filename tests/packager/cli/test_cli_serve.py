"""`trtpack serve`."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from packager.cli import main

MODEL = """
import os, sys

class Model:
    def predict(self, inputs):
        loaded = [name for name in ("packager", "transformers") if name in sys.modules]
        return {"output": os.environ["GREETING"], "loaded": loaded}
"""


def serve(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["serve", *map(str, args)])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package without an engine, whose model answers at once."""
    (tmp_path / "config.yaml").write_text("environment_variables: {GREETING: bonjour}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text(MODEL)
    return tmp_path


def test_it_becomes_the_server(package: Path) -> None:
    """A runtime.py where it is started is not taken for ours, and the server is the process that was started."""
    (package / "runtime.py").write_text("raise SystemExit('the wrong runtime')")
    command = [sys.executable, "-P", "-c", "from packager import main; main()", "serve", ".", "--port", "0"]
    with subprocess.Popen(command, cwd=package, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        log = []
        try:
            for line in process.stdout:
                log.append(line)
                if "Completed model.load()" in line:
                    break
            (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)", "".join(log))
            answer = CliRunner().invoke(main, ["predict", "hi", "--json", "--url", f"http://127.0.0.1:{port}"])
            assert (answer.stdout, answer.stderr) == ('{"output": "bonjour", "loaded": []}\n', "")
        finally:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_host_and_port_are_handed_over(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda path, argv, env: called.append(argv))
    assert serve(package, "--host", "0.0.0.0", "--port", "9").exit_code == 0
    assert called[0][-6:] == ["--package", str(package), "--host", "0.0.0.0", "--port", "9"]


def test_an_engine_that_is_not_compiled_names_compile(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("engine: {checkpoint: hf://a/b}")
    result = serve(tmp_path)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"error: {tmp_path}/engine/engine.json does not exist",
        f"  Compile the engine with: trtpack compile {tmp_path}",
    ]


@pytest.mark.parametrize("by", ["config", "environment"])
def test_an_engine_that_is_pulled_need_not_be_here(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "oci://localhost:5000/m:1"
    (tmp_path / "config.yaml").write_text(f"engine: {{{'source' if by == 'config' else 'checkpoint'}: '{source}'}}")
    if by == "environment":
        monkeypatch.setenv("TRTPACK_ENGINE_SOURCE", source)
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda path, argv, env: called.append(argv))
    assert serve(tmp_path).exit_code == 0
    assert len(called) == 1


def test_a_package_without_a_checkpoint_is_not_compiled(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("engine: {source: 'hf://me/m'}")
    result = CliRunner().invoke(main, ["compile", str(tmp_path)])
    assert (result.exit_code, "config.yaml names no checkpoint to compile" in result.stderr) == (2, True)


def test_a_wrong_config_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("modle_name: a")
    result = serve(tmp_path)
    assert (result.exit_code, "did you mean 'model_name'?" in result.stderr) == (2, True)


def test_no_package(tmp_path: Path) -> None:
    result = serve(tmp_path)
    assert (result.exit_code, f"trtpack init {tmp_path}" in result.stderr) == (2, True)


def test_a_port_out_of_range() -> None:
    assert serve("--port", "70000").exit_code == 2
