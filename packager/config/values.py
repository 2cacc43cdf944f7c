"""The kinds of value config.yaml holds beyond text and numbers.

A validator here raises ValueError("expected ..."); the loader completes it with what it found and where.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, PlainSerializer

from k8s.gpus import Gpu, find
from runtime.engine.manifest import ADAPTER_NAME
from runtime.errors import RegistryError
from runtime.registry.reference import Reference
from runtime.registry.source import OCI, is_reference

# Kubernetes' resource.Quantity (apimachinery quantity.go) without exponents, and more than nothing.
_CPU = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?m?")
_MEMORY = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?")
# Kubernetes' IsEnvVarName (apimachinery validation.go), less the names no shell can set.
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# Truss's rule for a build secret (truss_config.py, Build).
_SECRET_NAME = re.compile(r"[-._a-zA-Z0-9]{1,253}")


@dataclass(frozen=True)
class Accelerator:
    """`count` GPUs of one type."""

    gpu: Gpu
    count: int = 1

    def __str__(self) -> str:
        """What config.yaml says: Truss's name where it has one, else GKE's label."""
        name = self.gpu.truss_names[0] if self.gpu.truss_names else self.gpu.name
        return name if self.count == 1 else f"{name}:{self.count}"


def parse_accelerator(text: str) -> Accelerator:
    """`NAME` or `NAME:COUNT`, where NAME is Truss's or GKE's. Raises ValueError, UnknownGpuError among them."""
    name, colon, count = text.strip().partition(":")
    if colon and not re.fullmatch(r"[1-9][0-9]{0,3}", count):
        raise ValueError("expected a GPU and a count, such as A100:2")
    return Accelerator(find(name), int(count or 1))


def _accelerator(value: Any) -> Accelerator | None:
    if value is None or isinstance(value, Accelerator):
        return value
    if not isinstance(value, str):
        raise ValueError("expected a GPU such as L4 or A100:2")
    return parse_accelerator(value)


def _cpu(value: Any) -> str:
    text = _quantity(value)
    if not _CPU.fullmatch(text):
        raise ValueError("expected CPU cores such as 4 or 500m")
    return text


def _memory(value: Any) -> str:
    text = _quantity(value)
    if not _MEMORY.fullmatch(text):
        raise ValueError("expected an amount of memory such as 16Gi or 512M")
    return text


def _quantity(value: Any) -> str:
    """Text, or a plain number, which Kubernetes takes too."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _env_name(value: str) -> str:
    if not _ENV_NAME.fullmatch(value):
        raise ValueError("expected letters, digits, '_', '-' or '.', first a letter or '_'")
    return value


def _env_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError("expected text or a number")
    return str(value)


def _secret_name(value: str) -> str:
    if not _SECRET_NAME.fullmatch(value) or value in {".", ".."}:
        raise ValueError("expected a secret's name: at most 253 letters, digits, '-', '_' or '.'")
    return value


def _adapter_name(value: str) -> str:
    if not re.fullmatch(ADAPTER_NAME, value):
        raise ValueError("expected at most 64 letters, digits, '.', '_' or '-', first a letter or digit")
    return value


def _engine_source(value: str) -> str:
    try:
        if value.startswith(OCI):
            Reference.parse(value)
    except RegistryError as error:
        raise ValueError("expected oci://REGISTRY/NAME:TAG") from error
    if not is_reference(value):
        raise ValueError("expected oci://REGISTRY/NAME:TAG or hf://ORG/NAME")
    return value


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts:
        raise ValueError("expected a path inside the package folder")
    return value


def _absolute(value: str) -> str:
    if value and not PurePosixPath(value).is_absolute():
        raise ValueError("expected an absolute path")
    return value


AcceleratorValue = Annotated[
    InstanceOf[Accelerator] | None,
    BeforeValidator(_accelerator),
    PlainSerializer(lambda value: None if value is None else str(value), return_type=str | None),
]
Whole = Annotated[int, Field(strict=True)]  # strict: True is an int to Python, never to a reader of config.yaml
Positive = Annotated[Whole, Field(ge=1)]
Cpu = Annotated[str, BeforeValidator(_cpu)]
Memory = Annotated[str, BeforeValidator(_memory)]
EnvName = Annotated[str, AfterValidator(_env_name)]
EnvValue = Annotated[str, BeforeValidator(_env_value)]
SecretName = Annotated[str, AfterValidator(_secret_name)]
Text = Annotated[str, Field(min_length=1)]
AdapterName = Annotated[str, AfterValidator(_adapter_name)]
EngineSource = Annotated[str, AfterValidator(_engine_source)]
InsidePath = Annotated[str, AfterValidator(_inside)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
