"""What the image installs: the serving side, at the engine's own torch, and what the package asks for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from packager.config import PackageConfig
from packager.errors import ConfigError
from packager.image.requirements import requirements, user_requirements
from runtime.engine import manifest

Loaded = Callable[..., tuple[Path, PackageConfig]]


def test_serving_requirements_without_the_packaging_tools(loaded: Loaded) -> None:
    lines = requirements(loaded()[1], None).splitlines()
    names = {Requirement(line).name for line in lines}
    assert names >= {"pydantic", "jinja2", "pyyaml", "fastapi", "uvicorn", "tokenizers", "safetensors"}
    assert not names & {"torch", "transformers", "click", "rich", "gguf", "pytest"}
    assert not any(";" in line for line in lines)
    assert lines == sorted(lines)


def test_torch_is_the_engine_s_own_release(loaded: Loaded, tiny_engine: Callable[..., Path]) -> None:
    engine = manifest.read(tiny_engine())
    lines = requirements(loaded()[1], engine).splitlines()
    assert [line for line in lines if line.startswith("torch")] == [f"torch=={engine.backend.version.split('+')[0]}"]


def test_torch_for_a_gpu_is_never_the_one_for_cpus(loaded: Loaded, tiny_engine: Callable[..., Path]) -> None:
    _, config = loaded(resources={"accelerator": "L4"})
    engine = manifest.read(tiny_engine())
    assert f"torch==={engine.backend.torch}" in requirements(config, engine).splitlines()


@pytest.mark.parametrize(("source", "client"), [("oci://r.example/a:1", "httpx"), ("hf://org/a", "huggingface-hub")])
def test_what_pulls_an_engine_comes_in_its_place(loaded: Loaded, source: str, client: str) -> None:
    _, config = loaded(engine={"source": source}, resources={"accelerator": "L4"})
    names = {Requirement(line).name for line in requirements(config, None).splitlines()}
    assert names >= {client, "torch", "tensorrt-rtx"}


def test_the_package_s_own_come_last_in_their_order(loaded: Loaded) -> None:
    _, config = loaded(requirements=["zeep==4.3", "attrs"])
    assert requirements(config, None).splitlines()[-2:] == ["zeep==4.3", "attrs"]


def test_requirements_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# pinned\nattrs==25.3\n")
    assert user_requirements(tmp_path, "requirements.txt") == "# pinned\nattrs==25.3\n"


def test_pyproject_lends_its_dependencies(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["attrs", "zeep>=4"]\n')
    assert user_requirements(tmp_path, "pyproject.toml") == "attrs\nzeep>=4\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("pyproject.toml", "[project", "is not TOML"), ("uv.lock", "", "uv.lock is uv's own format")],
)
def test_files_pip_cannot_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        user_requirements(tmp_path, name)
