"""The Dockerfile of a package, the same text for the same config."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import jinja2

from packager.config import PackageConfig
from packager.config.image import BaseImage
from packager.errors import ConfigError
from packager.image.labels import OCI, title
from packager.image.layout import APP, CODE, PACKAGES, WEIGHTS, Layout
from packager.image.options import Options
from runtime.registry.source import SOURCE_VARIABLE

OLDEST_PYTHON = (3, 11)
# PyPI's Linux wheels of torch bring CUDA, some 3 GB; these do not (pytorch.org, "Start locally").
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MARKER = ".trtpack-context"
# The time of every file in the image, in seconds: 1 January 1980, before which a zip archive has no words.
EPOCH = 315532800


def dockerfile(config: PackageConfig, layout: Layout, labels: Mapping[str, str], options: Options) -> str:
    """Raises ConfigError."""
    own = config.base_image or BaseImage()
    base_image = _one_word(options.base_image or own.image or f"python:{python_version(config)}-slim-bookworm")
    return _TEMPLATES.get_template("Dockerfile.j2").render(
        title=title(config),
        epoch=EPOCH,
        base_image=base_image,
        python=own.python_executable_path or "python3",
        python_version=python_version(config),
        system_packages=config.system_packages,
        extra_index=TORCH_CPU_INDEX if config.resources.accelerator is None else "",
        mounts=not options.plain,
        wheels=options.wheels is not None,
        ca=options.ca_cert is not None,
        trust_ca=options.trust_ca,
        source_variable=SOURCE_VARIABLE,
        source=config.engine.source if config.engine and not options.compiler else None,
        environment=_environment(config),
        labels={**labels, f"{OCI}.base.name": base_image},
        compiler=options.compiler,
        layers=layout.layers,
        weights=WEIGHTS,
        compiled={CODE: CODE, PACKAGES: PACKAGES, APP: layout.place(layout.model)},
        downloads=_downloads(config, layout),
        build_commands=config.build_commands,
    )


def dockerignore() -> str:
    """What of the context is for its reader and not for the image."""
    return _TEMPLATES.get_template("dockerignore.j2").render(marker=MARKER)


def python_version(config: PackageConfig) -> str:
    """Such as 3.13. Raises ConfigError for one that is too old for the runtime."""
    major, minor = int(config.python_version[2]), int(config.python_version[3:])
    if (major, minor) < OLDEST_PYTHON:
        raise ConfigError(
            f"python_version is {config.python_version}, but the runtime needs 3.11 or later",
            "Set python_version to py311, py312, py313 or py314: that of base_image, where you name one.",
        )
    return f"{major}.{minor}"


def _environment(config: PackageConfig) -> dict[str, str]:
    for name, value in config.environment_variables.items():
        if "\n" in value or "\r" in value:
            raise ConfigError(
                f"environment_variables.{name} has a line break, which a Dockerfile cannot hold",
                "Put the text in a file under data/, or set the variable where the container runs.",
            )
    return dict(sorted(config.environment_variables.items()))


def _one_word(image: str) -> str:
    if len(image.split()) != 1:
        raise ConfigError(f"{image!r} is not the name of a base image")
    return image


def _downloads(config: PackageConfig, layout: Layout) -> dict[str, list[tuple[str, str]]]:
    """What each layer fetches: a URL, and where it goes beneath the image's root."""
    found: dict[str, list[tuple[str, str]]] = {}
    for item in config.external_data or ():
        if item.backend != "http_public":
            raise ConfigError(f"external_data: {item.backend} is no known backend", "Use http_public.")
        place = layout.place(f"{config.data_dir}/{item.local_data_path}")
        found.setdefault(place.partition("/")[0], []).append((item.url, place))
    return found


def _quote(text: str) -> str:
    """A double-quoted word of a Dockerfile, in which nothing is expanded and no line ends."""
    return '"' + re.sub(r'(["\\$])', r"\\\1", " ".join(text.splitlines())) + '"'


def _array(words: list[str]) -> str:
    """The JSON form of an instruction: no shell and no line break between us and it."""
    return json.dumps(words, ensure_ascii=False)


def _paths(words: list[str]) -> str:
    """The JSON form of COPY and ADD, which expand variables and take quotes off in it all the same."""
    return _array([re.sub(r"""(['"\\$])""", r"\\\1", word) for word in words])


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parents[2] / "templates" / "docker"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"quote": _quote, "array": _array, "paths": _paths, "shell": shlex.quote}
