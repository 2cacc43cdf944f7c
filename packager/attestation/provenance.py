"""What an engine or an image was made from, by whom, and with what parameters."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from packager.attestation import bom
from packager.attestation.engine import Engine
from packager.attestation.image import BASE_DIGEST, BASE_NAME, BUILT_BY, Base, Described, Evidence
from packager.attestation.inventory import Inventory
from packager.attestation.statement import BUILD, COMPILE, Builder, Definition, Provenance, Resource, Run, Statement
from runtime.engine.manifest import Manifest
from runtime.registry import oci

BUILDER_VARIABLE = "TRTPACK_BUILDER_ID"  # a URI, such as a CI service names its workflow
SBOM = "sbom"
_LOCK = "requirements.lock"


def of_engine(name: str, digest: str, found: Engine, sbom: bytes) -> Statement:
    """That the manifest with `digest`, such as "sha256:e3b0…", is of an engine compiled from its checkpoint."""
    manifest = found.manifest
    subject = _resource(name, digest), _resource("engine.json", f"sha256:{found.files['engine.json']}")
    definition = Definition(
        build_type=COMPILE,
        external_parameters=_compile_parameters(manifest),
        resolved_dependencies=tuple(_compile_dependencies(found)),
    )
    return _statement(subject, definition, sbom, manifest.trtpack_version)


def of_image(name: str, digest: str, described: Described, base: Base | None, found: Evidence) -> Statement:
    """That the image manifest with `digest` is of an image built from a package, a base image and an engine."""
    labels = dict(sorted(described.labels.items()))
    definition = Definition(
        build_type=BUILD,
        external_parameters={"labels": labels},
        resolved_dependencies=tuple(_build_dependencies(described, base, found.inventory)),
    )
    return _statement((_resource(name, digest),), definition, found.sbom, labels.get(BUILT_BY, version("trtpack")))


def _statement(subject: tuple[Resource, ...], definition: Definition, sbom: bytes, release: str) -> Statement:
    builder = Builder(id=os.environ.get(BUILDER_VARIABLE) or "urn:trtpack:local", version={"trtpack": release})
    listed = Resource(name=SBOM, digest=_digest(oci.digest_of(sbom)), media_type=bom.MEDIA_TYPE)
    run = Run(builder=builder, byproducts=(listed,))
    return Statement(subject=subject, predicate=Provenance(build_definition=definition, run_details=run))


def _compile_parameters(manifest: Manifest) -> dict[str, Any]:
    """What the user chose: from which checkpoint, for which GPU, in which precision, within which limits."""
    return {
        "checkpoint": manifest.model.source,
        "targets": [{"gpu": target.gpu, "computeCapability": target.compute_capability} for target in manifest.targets],
        "backend": manifest.backend.name,
        "weights": manifest.weights,
        "precision": manifest.precision.model_dump(mode="json", exclude_none=True),
        "limits": manifest.limits.model_dump(mode="json", exclude_none=True),
        "tensorParallelism": manifest.parallelism.tensor,
        "adapters": {adapter.name: adapter.source for adapter in manifest.adapters},
    }


def _compile_dependencies(found: Engine) -> Iterator[Resource]:
    manifest = found.manifest
    yield _checkpoint(manifest.model.source, manifest.model.revision)
    if found.draft:
        yield _checkpoint(found.draft.model.source, found.draft.model.revision)
    yield from (_checkpoint(adapter.source, adapter.revision) for adapter in manifest.adapters)
    releases = {"torch": manifest.backend.torch, manifest.backend.name: manifest.backend.version}
    for name, release in sorted((releases | {"trtpack": manifest.trtpack_version}).items()):
        yield Resource(name=name, uri=bom.pypi(name, release).to_string())


def _build_dependencies(described: Described, base: Base | None, taken: Inventory) -> Iterator[Resource]:
    if uri := described.labels.get(BASE_NAME) or (base and base.name):
        digest = described.labels.get(BASE_DIGEST)
        yield Resource(name="base image", uri=uri, digest=_digest(digest) if digest else None)
    if taken.engine:
        yield _resource("engine.json", f"sha256:{taken.engine.files['engine.json']}")
        yield _checkpoint(taken.engine.manifest.model.source, taken.engine.manifest.model.revision)
    for path, file in taken.own.items():
        if path.rpartition("/")[2] == _LOCK:
            yield _resource(f"/{path}", f"sha256:{file.sha256}")


def _checkpoint(source: str, revision: str | None) -> Resource:
    """A revision is a commit of the Hub's git repositories; a checkpoint elsewhere has none."""
    return Resource(name=source, uri=source, digest={"gitCommit": revision} if revision else None)


def _resource(name: str, digest: str) -> Resource:
    return Resource(name=name, digest=_digest(digest))


def _digest(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}
