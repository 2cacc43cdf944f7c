"""How an image is built, beside what its package says."""

import platform as machine
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packager.config import PackageConfig

_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Options:
    """`plain`: a Dockerfile for builders without BuildKit's mounts. `upgrade`: requirements are resolved anew.

    `wheels` is a folder that installs come from, in place of an index. `ca_cert` is a PEM file trusted by what the
    build fetches, and with `trust_ca` by the server as well. `labels` come before those that trtpack finds itself.
    `compiler`: the image that compiles the package's engine, not the one that serves it.
    """

    base_image: str | None = None
    platform: str | None = None
    plain: bool = False
    wheels: Path | None = None
    ca_cert: Path | None = None
    trust_ca: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    upgrade: bool = False
    compiler: bool = False


def platform(config: PackageConfig, options: Options) -> str:
    """What the image runs on, such as linux/amd64: as asked, or of the GPU's machines, or of this one."""
    accelerator = config.resources.accelerator
    own = _ARCHITECTURES.get(machine.machine(), "amd64")
    return options.platform or f"linux/{accelerator.gpu.arch if accelerator else own}"
