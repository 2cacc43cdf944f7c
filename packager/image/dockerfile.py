"""The Dockerfile of a package, the same text for the same config."""

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import jinja2

from packager.config import PackageConfig
from packager.config.image import BaseImage
from packager.errors import ConfigError

OLDEST_PYTHON = (3, 11)
# PyPI's Linux wheels of torch bring CUDA, some 3 GB; these do not (pytorch.org, "Start locally").
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MARKER = ".trtpack-context"


def dockerfile(config: PackageConfig, folders: tuple[str, ...], *, base_image: str | None = None) -> str:
    """`folders` are the package's own, in layer order, the model's last. Raises ConfigError."""
    own = config.base_image or BaseImage()
    on_cpu = config.resources.accelerator is None
    return _TEMPLATES.get_template("Dockerfile.j2").render(
        title=_title(config),
        base_image=_one_word(base_image or own.image or _default_base(config)),
        python=own.python_executable_path or "python3",
        system_packages=config.system_packages,
        extra_index=TORCH_CPU_INDEX if on_cpu else "",
        user_requirements=config.requirements_file is not None,
        environment=_environment(config),
        labels=_labels(config),
        engine=config.engine is not None,
        downloads=_downloads(config),
        folders=folders,
        build_commands=config.build_commands,
    )


def dockerignore() -> str:
    """What of the context is for its reader and not for the image."""
    return _TEMPLATES.get_template("dockerignore.j2").render(marker=MARKER)


def _default_base(config: PackageConfig) -> str:
    major, minor = int(config.python_version[2]), int(config.python_version[3:])
    if (major, minor) < OLDEST_PYTHON:
        raise ConfigError(
            f"python_version is {config.python_version}, but the runtime needs 3.11 or later",
            "Set python_version to py311, py312, py313 or py314.",
        )
    return f"python:{major}.{minor}-slim-bookworm"


def _environment(config: PackageConfig) -> dict[str, str]:
    for name, value in config.environment_variables.items():
        if "\n" in value or "\r" in value:
            raise ConfigError(
                f"environment_variables.{name} has a line break, which a Dockerfile cannot hold",
                "Put the text in a file under data/, or set the variable where the container runs.",
            )
    return dict(sorted(config.environment_variables.items()))


def _labels(config: PackageConfig) -> dict[str, str]:
    labels = {"org.opencontainers.image.title": _title(config), "trtpack.version": version("trtpack")}
    if config.description:
        labels["org.opencontainers.image.description"] = " ".join(config.description.split())
    if accelerator := config.resources.accelerator:
        labels["trtpack.gpu"] = accelerator.gpu.name
        labels["trtpack.compute-capability"] = accelerator.gpu.compute_capability
    return labels


def _title(config: PackageConfig) -> str:
    return " ".join((config.model_name or config.slug).split())


def _one_word(image: str) -> str:
    if len(image.split()) != 1:
        raise ConfigError(f"{image!r} is not the name of a base image")
    return image


def _downloads(config: PackageConfig) -> list[tuple[str, str]]:
    items = config.external_data or ()
    for item in items:
        if item.backend != "http_public":
            raise ConfigError(f"external_data: {item.backend} is no known backend", "Use http_public.")
    return [(item.url, f"{config.data_dir}/{item.local_data_path}") for item in items]


def _quote(text: str) -> str:
    """A double-quoted word of a Dockerfile, in which nothing is expanded."""
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


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
