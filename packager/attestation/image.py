"""What an image's evidence says: its components, and what it was built from."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL
from pydantic import BaseModel, Field

from packager.attestation import bom, inventory
from packager.attestation.dpkg import System
from packager.attestation.inventory import ENGINE, Inventory
from packager.attestation.python import Distribution, Interpreter
from packager.attestation.tree import File, Tree

TITLE, VERSION = "org.opencontainers.image.title", "org.opencontainers.image.version"
BASE_NAME, BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
BUILT_BY = "trtpack.version"
RUNTIME = "runtime"


@dataclass(frozen=True)
class Described:
    """What an image's own configuration says; `layers` are the digests of the uncompressed tars, lowest first.

    `folders` are those it works in: the working folder, and where Python looks for modules first.
    """

    labels: Mapping[str, str]
    folders: tuple[str, ...]
    layers: tuple[str, ...]


class Container(BaseModel):
    """What a container of an image starts with; the field names are Docker's and OCI's (config.md)."""

    labels: dict[str, str] | None = Field(default=None, alias="Labels")
    working_dir: str = Field(default="", alias="WorkingDir")
    environment: tuple[str, ...] | None = Field(default=None, alias="Env")

    def described(self, layers: tuple[str, ...]) -> Described:
        environment = dict(pair.split("=", 1) for pair in self.environment or () if "=" in pair)
        folders = [self.working_dir, *environment.get("PYTHONPATH", "").split(":")]
        if trusted := environment.get("SSL_CERT_FILE"):
            folders.append(posixpath.dirname(trusted))
        return Described(self.labels or {}, tuple(folder for folder in folders if folder.strip("/")), layers)


class _Layers(BaseModel):
    diff_ids: tuple[str, ...]


class Configuration(BaseModel):
    """An image's configuration in a registry (OCI image specification 1.1, config.md)."""

    config: Container = Container()
    rootfs: _Layers

    @property
    def described(self) -> Described:
        return self.config.described(self.rootfs.diff_ids)


@dataclass(frozen=True)
class Base:
    """What an image was built on: the lowest `layers` of its own, and what they hold."""

    name: str
    layers: int
    tree: Tree


@dataclass(frozen=True)
class Evidence:
    """The SBOM as JSON, and whose each file is."""

    sbom: bytes
    inventory: Inventory


def evidence(described: Described, tree: Tree, base: Base | None = None) -> Evidence:
    """Raises EngineError for an engine.json in the image that is not valid."""
    taken = inventory.take(tree, described.folders, base.tree if base else None)
    return Evidence(bom.dump(_root(described, taken), _components(described, taken, base)), taken)


def _root(described: Described, taken: Inventory) -> Component:
    facts = {f"label:{name}": value for name, value in sorted(described.labels.items())}
    return Component(
        name=described.labels.get(TITLE, "image"),
        version=described.labels.get(VERSION) or None,
        type=ComponentType.CONTAINER,
        bom_ref="subject",
        properties=bom.properties(
            {**facts, "layers": " ".join(described.layers), "unaccounted-files": len(taken.unaccounted)}
        ),
    )


def _components(described: Described, taken: Inventory, base: Base | None) -> Iterator[Component]:
    system = taken.system
    if system.packages:
        yield Component(
            name=system.distribution,
            version=system.codename or None,
            type=ComponentType.OPERATING_SYSTEM,
            bom_ref="system",
            components=_debian(system),
        )
    yield from (_interpreter(one) for one in taken.interpreters)
    yield from _distributions(taken.distributions)
    if taken.engine:
        yield bom.engine_component(taken.engine, ENGINE)
    yield from _own(described, taken.own)
    if base:
        yield Component(
            name=base.name,
            version=described.labels.get(BASE_DIGEST) or None,
            type=ComponentType.CONTAINER,
            bom_ref="base",
            properties=bom.properties({"layers": base.layers}),
            components=_files(taken.inherited, "base"),
        )


def _debian(system: System) -> Iterator[Component]:
    distro = "-".join(part for part in (system.distribution, system.codename) if part)
    for package in system.packages:
        qualifiers = {"arch": package.architecture, "distro": distro}
        if package.source:
            qualifiers["upstream"] = package.source
        purl = PackageURL("deb", system.distribution, package.name, package.version, qualifiers)
        yield bom.library(purl)


def _distributions(distributions: Iterable[Distribution]) -> Iterator[Component]:
    """One that is there twice, as what a distribution brings for itself may be, is told apart by its place."""
    seen: set[PackageURL] = set()
    for one in distributions:
        purl = bom.pypi(one.name, one.version)
        ref = one.record if purl in seen else ""
        seen.add(purl)
        yield bom.library(purl, description=one.summary, licenses=one.licenses, ref=ref)


def _interpreter(interpreter: Interpreter) -> Component:
    purl = PackageURL("generic", name="python", version=interpreter.version)
    return bom.library(purl, description=f"CPython in /{interpreter.prefix}", licenses=["Python-2.0"])


def _own(described: Described, own: Mapping[str, File]) -> Iterator[Component]:
    """The runtime, which is this tool's, and the package's files, by their paths in the image."""
    places = tuple(f"{folder.strip('/')}/{RUNTIME}/" for folder in described.folders)
    runtime = {path: file for path, file in own.items() if path.startswith(places)}
    if runtime:
        yield Component(
            name="trtpack",
            version=described.labels.get(BUILT_BY) or None,
            type=ComponentType.FRAMEWORK,
            bom_ref=RUNTIME,
            description="trtpack's runtime: server, scheduler, engines",
            components=_files(runtime, RUNTIME),
        )
    yield from _files({path: file for path, file in own.items() if path not in runtime}, "package")


def _files(files: Mapping[str, File], ref: str) -> list[Component]:
    return [bom.file(f"/{path}", file.sha256, f"{ref}:/{path}") for path, file in sorted(files.items())]
