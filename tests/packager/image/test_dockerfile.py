"""The Dockerfile: layers in the order of how seldom they change, and nothing in it that a value could break out of."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager.config import PackageConfig
from packager.errors import ConfigError
from packager.image.dockerfile import TORCH_CPU_INDEX, dockerfile

Loaded = Callable[..., tuple[Path, PackageConfig]]
FOLDERS = ("data", "packages", "model")


@pytest.fixture
def written(loaded: Loaded) -> Callable[..., list[str]]:
    """The instructions, one a line, of a package with these fields."""

    def write(option: str | None = None, **fields: Any) -> list[str]:
        text = dockerfile(loaded(**fields)[1], FOLDERS, base_image=option)
        lines = re.sub(r"\\\n", "", text).splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    return write


def test_layers_go_from_what_changes_least(written: Callable[..., list[str]]) -> None:
    lines = written(engine={"checkpoint": "hf://a/b"}, system_packages=["ffmpeg"], build_commands=["true"])
    order = [
        "apt-get install",
        "pip install",
        "COPY --from=builder /opt/venv",
        "COPY --from=builder /app/runtime",
        "COPY engine engine",
        'COPY ["data", "data/"]',
        'COPY ["packages", "packages/"]',
        'COPY ["model", "model/"]',
        'RUN ["/bin/sh", "-ec", "true"]',
        "COPY config.yaml .",
    ]
    found = [next(i for i, line in enumerate(lines) if text in line) for text in order]
    assert found == sorted(found)


def test_python_is_process_one_and_not_root(written: Callable[..., list[str]]) -> None:
    *_, user, port, command = written()
    assert user == "USER 1000:1000"
    assert port == "EXPOSE 8080"
    assert json.loads(command.removeprefix("CMD ")) == [
        *("python", "-m", "runtime.server", "--package", "/app", "--host", "0.0.0.0")
    ]


@pytest.mark.parametrize(
    ("fields", "option", "base"),
    [
        ({}, None, "python:3.11-slim-bookworm"),
        ({"python_version": "py313"}, None, "python:3.13-slim-bookworm"),
        ({"base_image": {"image": "registry.example/python:1"}}, None, "registry.example/python:1"),
        ({"base_image": {"image": "registry.example/python:1"}}, "mine:2", "mine:2"),
        ({"python_version": "py39"}, "mine:2", "mine:2"),
    ],
)
def test_base_image(written: Callable[..., list[str]], fields: dict[str, Any], option: str | None, base: str) -> None:
    assert written(option, **fields)[:2] == [f"ARG BASE_IMAGE={base}", "FROM ${BASE_IMAGE} AS base"]


def test_python_of_a_base_image(written: Callable[..., list[str]]) -> None:
    assert "RUN python3 -m venv /opt/venv" in written()
    own = {"image": "x", "python_executable_path": "/opt/python/bin/python3"}
    assert "RUN /opt/python/bin/python3 -m venv /opt/venv" in written(base_image=own)


def test_torch_without_cuda_where_there_is_no_gpu(written: Callable[..., list[str]]) -> None:
    assert f'ARG PIP_EXTRA_INDEX_URL="{TORCH_CPU_INDEX}"' in written()
    assert 'ARG PIP_EXTRA_INDEX_URL=""' in written(resources={"accelerator": "L4"})


def test_labels_name_the_gpu(written: Callable[..., list[str]]) -> None:
    lines = written(resources={"accelerator": "H100:2"}, description="Two\nlines")
    assert 'LABEL org.opencontainers.image.title="Tiny 1"' in lines
    assert 'LABEL org.opencontainers.image.description="Two lines"' in lines
    assert 'LABEL trtpack.gpu="nvidia-h100-80gb"' in lines
    assert 'LABEL trtpack.compute-capability="9.0"' in lines
    assert not any("trtpack.gpu" in line for line in written())


def test_values_are_quoted(written: Callable[..., list[str]]) -> None:
    lines = written(
        model_name="a\nUSER root",
        environment_variables={"QUOTED": 'a"b\\c $HOME', "ON": True},
        system_packages=["tini", "x; touch /pwned"],
        build_commands=["echo 'é' &&\necho \"$QUOTED\""],
    )
    assert 'ENV QUOTED="a\\"b\\\\c \\$HOME"' in lines
    assert 'ENV ON="true"' in lines
    assert any("tini 'x; touch /pwned'" in line for line in lines)
    assert json.loads(next(line for line in lines if "/bin/sh" in line).removeprefix("RUN "))[2].splitlines() == [
        "echo 'é' &&",
        'echo "$QUOTED"',
    ]
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]


def test_external_data_is_fetched_into_the_data_folder(written: Callable[..., list[str]]) -> None:
    lines = written(external_data=[{"url": "https://example.org/a?b=$c", "local_data_path": "deep/a.bin"}])
    assert 'ADD --chmod=0644 ["https://example.org/a?b=\\\\$c", "data/deep/a.bin"]' in lines


def test_a_base_image_is_one_word(written: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError, match="is not the name of a base image"):
        written("x\nUSER root")


def test_external_data_from_an_unknown_backend_is_refused(written: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError, match="external_data: s3 is no known backend"):
        written(external_data=[{"url": "s3://a", "local_data_path": "a", "backend": "s3"}])
