"""The image that compiles a package's engine: trtpack besides the server, no engine, and the server's releases."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from packager.config import PackageConfig
from packager.image import Options, printed, write_context
from tests.wheels import make_wheel

Loaded = Callable[..., tuple[Path, PackageConfig]]
ENGINE = {"checkpoint": "hf://tiny/tiny"}
COMPILER = Options(compiler=True)


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)===?([^\s;]+)", lock.read_text(), re.MULTILINE))


def test_it_runs_from_what_the_context_holds(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded(engine=ENGINE, resources={"accelerator": "L4"})
    write_context(package, config, tmp_path / "context", COMPILER)
    image = tmp_path / "context" / "image"
    assert {path.name for path in image.iterdir()} == {"trtpack", "data", "packages", "app"}
    told = subprocess.run(
        [sys.executable, "-P", "-m", "packager", "--version"],
        env={"PYTHONPATH": str(image / "trtpack"), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert version("trtpack") in told.stdout
    assert (image / "app" / "model" / "model.py").is_file()


def test_what_it_is_called_with_follows_trtpack(loaded: Loaded) -> None:
    package, config = loaded(engine=ENGINE)
    text = printed(package, config, COMPILER)
    assert 'ENTRYPOINT ["python", "-m", "packager"]' in text
    assert "runtime.server" not in text
    assert "USER 1000:1000" in text


def test_it_installs_what_packages_and_what_serves(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded(engine=ENGINE, resources={"accelerator": "L4"})
    write_context(package, config, tmp_path / "context", COMPILER)
    found = pins(package / "compiler.lock")
    assert found.keys() >= {"click", "transformers", "onnx", "fastapi", "llguidance", "torch", "tensorrt-rtx"}
    assert found["tensorrt-rtx"] == version("tensorrt-rtx")
    assert not (package / "requirements.lock").exists()


def test_its_releases_are_those_of_the_server_that_pulls_the_engine(
    loaded: Loaded, tmp_path: Path, empty_wheels: Path
) -> None:
    """TensorRT for an H100 is not installed here: whichever the server's lock has is the compiler's, too."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for wheel in empty_wheels.iterdir():
        (wheels / wheel.name).symlink_to(wheel)
    make_wheel(wheels, "tensorrt", "11.0.1")
    package, config = loaded(engine={**ENGINE, "source": "oci://r.example/a:1"}, resources={"accelerator": "H100"})
    write_context(package, config, tmp_path / "server", Options(wheels=wheels))
    make_wheel(wheels, "tensorrt", "11.0.2")
    write_context(package, config, tmp_path / "compiler", Options(compiler=True, wheels=wheels))
    server, compiler = pins(package / "requirements.lock"), pins(package / "compiler.lock")
    assert server["tensorrt"] == compiler["tensorrt"] == "11.0.1"
    assert server.items() <= compiler.items()
    before = (package / "compiler.lock").read_text()
    write_context(package, config, tmp_path / "server", Options(wheels=wheels, upgrade=True))
    assert (package / "compiler.lock").read_text() == before
    write_context(package, config, tmp_path / "compiler", Options(compiler=True, wheels=wheels))
    assert pins(package / "compiler.lock")["tensorrt"] == "11.0.2"


@pytest.mark.parametrize("gpu", ["H100", "B200"])
def test_tensorrt_comes_for_the_gpus_that_need_it_and_rtx_does_not(
    loaded: Loaded, tmp_path: Path, empty_wheels: Path, monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    make_wheel(tmp_path, "tensorrt", "11.0.1")
    monkeypatch.setenv("UV_FIND_LINKS", f"{empty_wheels},{tmp_path}")
    package, config = loaded(engine=ENGINE, resources={"accelerator": gpu})
    write_context(package, config, tmp_path / "context", COMPILER)
    found = pins(package / "compiler.lock")
    assert found["tensorrt"] == "11.0.1"
    assert "tensorrt-rtx" not in found
