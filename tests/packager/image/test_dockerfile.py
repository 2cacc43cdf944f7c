"""The Dockerfile: layers in the order of how seldom they change, and nothing in it that a value could break out of."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager.config import PackageConfig
from packager.errors import ConfigError
from packager.image import Options
from packager.image.dockerfile import TORCH_CPU_INDEX, dockerfile
from packager.image.layout import layout

Loaded = Callable[..., tuple[Path, PackageConfig]]


@pytest.fixture
def written(loaded: Loaded) -> Callable[..., list[str]]:
    """The instructions, one a line, of a package with these fields; and with these Options, where there are some."""

    def write(option: str | None = None, labels: dict[str, str] | None = None, **fields: Any) -> list[str]:
        options = Options(option, **fields.pop("options", {}))
        package, config = loaded(**fields)
        text = dockerfile(config, layout(package, config), labels or {}, options)
        lines = re.sub(r"\\\n", "", text).splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    return write


def final(lines: list[str]) -> list[str]:
    """Those of the last stage."""
    return lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]


def test_layers_go_from_what_changes_least(written: Callable[..., list[str]]) -> None:
    lines = written(engine={"checkpoint": "hf://a/b"}, build_commands=["true"], environment_variables={"A": "1"})
    order = ("venv", "trtpack", "weights", "engine", "data", "packages", "app")
    assert [line for line in final(lines) if line.startswith("COPY")] == [f"COPY --from={n} /out/ /" for n in order]
    last = [line.split()[0] for line in final(lines) if line.split()[0] in ("COPY", "ENV", "RUN", "USER")]
    assert last[-5:] == ["COPY", "COPY", "ENV", "RUN", "USER"]
    assert lines.index("FROM base AS app") > lines.index("FROM base AS venv")


@pytest.mark.parametrize("plain", [True, False])
def test_the_plain_form_asks_nothing_of_its_builder(written: Callable[..., list[str]], plain: bool) -> None:
    """Mounts, and --chmod of COPY and ADD, are BuildKit's."""
    lines = written(
        engine={"checkpoint": "hf://a/b"},
        system_packages=["ffmpeg"],
        build_commands=["true"],
        external_data=[{"url": "https://example.org/a", "local_data_path": "a"}],
        options={"plain": plain, "wheels": Path("wheels"), "ca_cert": Path("ca.pem")},
    )
    assert any("--mount" in line for line in lines) != plain
    assert not any("--chmod" in line for line in lines)
    assert ("COPY build/wheels /wheels" in lines) == plain


def test_what_is_installed_is_held_to_its_hashes(written: Callable[..., list[str]]) -> None:
    for options in ({}, {"plain": True}, {"wheels": Path("w")}):
        (install,) = [line for line in written(options=options) if " install " in line]
        assert "--require-hashes --no-deps" in install
        assert ("--no-index --find-links /wheels" in install) == ("wheels" in options)


def test_secrets_are_mounted_and_in_no_layer(written: Callable[..., list[str]]) -> None:
    lines = written()
    (install,) = [line for line in lines if "type=secret" in line]
    assert "--mount=type=secret,id=pip,target=/etc/pip.conf" in install
    assert "--mount=type=secret,id=netrc,target=/root/.netrc" in install


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_is_trusted_by_the_server_if_asked(written: Callable[..., list[str]], trusted: bool) -> None:
    lines = written(options={"ca_cert": Path("ca.pem"), "trust_ca": trusted}, system_packages=["ffmpeg"])
    assert any("PIP_CERT=/ca/bundle.crt" in line for line in lines)
    assert any("apt-get update -o Acquire::https::CAInfo=/ca/bundle.crt" in line for line in lines)
    assert any("SSL_CERT_FILE" in line for line in final(lines)) == trusted
    assert not any("/ca" in line for line in written())


def test_python_is_process_one_and_not_root(written: Callable[..., list[str]]) -> None:
    *_, volume, user, port, command = written()
    assert volume == "VOLUME /tmp"
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
        ({"base_image": {"image": "python@sha256:0a1b"}}, None, "python@sha256:0a1b"),
    ],
)
def test_base_image(written: Callable[..., list[str]], fields: dict[str, Any], option: str | None, base: str) -> None:
    assert written(option, **fields)[:2] == [f"ARG BASE_IMAGE={base}", "FROM ${BASE_IMAGE} AS base"]


def test_python_of_a_base_image(written: Callable[..., list[str]]) -> None:
    assert any("&& python3 -m venv --without-pip /venv" in line for line in written())
    own = {"image": "x", "python_executable_path": "/opt/python/bin/python3"}
    lines = written(base_image=own)
    assert any("&& /opt/python/bin/python3 -m venv --without-pip /venv" in line for line in lines)
    assert not any(line.startswith("RUN python3") for line in lines)


@pytest.mark.parametrize("base", [None, "mine:2"])
def test_a_python_too_old_for_the_runtime_is_refused(written: Callable[..., list[str]], base: str | None) -> None:
    with pytest.raises(ConfigError, match=r"python_version is py39, but the runtime needs 3\.11"):
        written(base, python_version="py39")


def test_torch_without_cuda_where_there_is_no_gpu(written: Callable[..., list[str]]) -> None:
    assert f'ARG PIP_EXTRA_INDEX_URL="{TORCH_CPU_INDEX}"' in written()
    assert 'ARG PIP_EXTRA_INDEX_URL=""' in written(resources={"accelerator": "L4"})


def test_labels_are_quoted_and_end_no_line(written: Callable[..., list[str]]) -> None:
    lines = written(labels={"a.b": 'x "y"\nUSER root', "c": "$HOME"})
    assert 'LABEL "a.b"="x \\"y\\" USER root"' in lines
    assert 'LABEL "c"="\\$HOME"' in lines
    assert 'LABEL "org.opencontainers.image.base.name"="python:3.11-slim-bookworm"' in lines


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
    (command,) = [line for line in final(lines) if "/bin/sh" in line]
    assert json.loads(command[command.index("[") :])[2].splitlines()[1:] == ["echo 'é' &&", 'echo "$QUOTED"']
    assert [line for line in lines if line.startswith("USER")] == ["USER 0:0", "USER 1000:1000"]


def test_external_data_is_fetched_into_the_data_folder(written: Callable[..., list[str]]) -> None:
    item = {"url": "https://example.org/a?b=$c", "local_data_path": "deep/a.bin"}
    lines = written(external_data=[item])
    assert 'ADD ["https://example.org/a?b=\\\\$c", "/out/data/deep/a.bin"]' in lines
    inside = written(external_data=[item], data_dir="model/files")
    assert 'ADD ["https://example.org/a?b=\\\\$c", "/out/app/model/files/deep/a.bin"]' in inside


def test_a_base_image_is_one_word(written: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError, match="is not the name of a base image"):
        written("x\nUSER root")


def test_external_data_from_an_unknown_backend_is_refused(written: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError, match="external_data: s3 is no known backend"):
        written(external_data=[{"url": "s3://a", "local_data_path": "a", "backend": "s3"}])
