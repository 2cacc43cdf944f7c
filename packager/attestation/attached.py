"""What is attached to a manifest in a registry: an SBOM and a statement of provenance, as referrers of it.

OCI image specification 1.1, manifest.md, "Guidelines for Artifact Usage": an empty config, one layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.dsse import Envelope

from packager.attestation import bom, engine, image, provenance, signature
from packager.attestation.statement import MEDIA_TYPE as STATEMENT
from packager.errors import TrtpackError
from runtime.errors import RegistryError
from runtime.registry import oci
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageManifest

DESCRIPTION = "org.opencontainers.image.description"
_EMPTY = b"{}"
# No SBOM comes near it, and it fits in memory.
_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Signed:
    """A statement as it is stored: by itself, or in the `envelope` that its signature is in."""

    content: bytes
    envelope: Envelope | None


@dataclass(frozen=True)
class Attached:
    sboms: tuple[bytes, ...]
    statements: tuple[Signed, ...]


def attach_engine(registry: Registry, subject: Descriptor, key: Path | None = None) -> None:
    """Attaches SBOM and provenance to the manifest `subject` of an engine that was pushed; twice is as once.

    `key` is a private key in PEM to sign with. Raises ConfigError for a key that is none, RegistryError for what the
    registry refuses.
    """
    found = engine.in_registry(registry, stored_manifest(registry, subject.digest))
    sbom = bom.engine(found)
    statement = provenance.of_engine(name_of(registry), subject.digest, found, sbom)
    attach(registry, subject, sbom, statement.dump(), key, bom.describe(found.manifest))


def attach(
    registry: Registry, subject: Descriptor, sbom: bytes, statement: bytes, key: Path | None, about: str
) -> None:
    """Attaches both to `subject`, the statement signed with `key` where there is one; `about` is for people to read."""
    signer = signature.signer(key) if key else None
    bare = Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size)
    _refer(registry, bare, bom.MEDIA_TYPE, bom.MEDIA_TYPE, sbom, about)
    if signer is None:
        _refer(registry, bare, STATEMENT, STATEMENT, statement, about)
    elif not any(  # ECDSA's and RSA's signatures differ each time
        one.content == statement and one.envelope and signature.is_by(one.envelope, signer.public_key)
        for one in read(registry, subject.digest).statements
    ):
        _refer(registry, bare, STATEMENT, signature.MEDIA_TYPE, signature.sign(statement, signer), about)


def read(registry: Registry, digest: str) -> Attached:
    """Raises RegistryError for what is damaged."""
    statements = [_signed(*found) for found in _contents(registry, digest, STATEMENT)]
    sboms = [content for _, content in _contents(registry, digest, bom.MEDIA_TYPE)]
    return Attached(tuple(sboms), tuple(statements))


def content(registry: Registry, name: str) -> bytes:
    """A manifest or index. Raises RegistryError where there is none."""
    content = registry.manifest(name)
    if content is None:
        raise RegistryError(f"{name} of {registry.reference} is not in the registry: push it again")
    return content


def stored_manifest(registry: Registry, name: str) -> ImageManifest:
    """At a digest or a tag. Raises RegistryError where there is none, or what is there is something else."""
    try:
        return ImageManifest.model_validate_json(content(registry, name))
    except ValidationError as error:
        raise RegistryError(
            f"{name} of {registry.reference} is not the manifest of one image or engine: {oci.reason(error)}"
        ) from error


def stored_image(registry: Registry, stored: ImageManifest) -> image.Described:
    """What the configuration of an image in a registry says. Raises RegistryError."""
    try:
        return image.Configuration.model_validate_json(registry.small_blob(stored.config)).described
    except ValidationError as error:
        raise RegistryError(
            f"{registry.reference} has a configuration that is no image's: {oci.reason(error)}"
        ) from error


def name_of(registry: Registry) -> str:
    """What a statement calls what it is of."""
    return f"{registry.reference.registry}/{registry.reference.repository}"


def _refer(registry: Registry, subject: Descriptor, kind: str, media_type: str, content: bytes, about: str) -> None:
    registry.put_small_blob(_EMPTY)
    registry.put_small_blob(content)
    registry.refer(
        ImageManifest(
            artifact_type=kind,
            config=oci.described(_EMPTY, oci.EMPTY),
            layers=(oci.described(content, media_type),),
            subject=subject,
            annotations={DESCRIPTION: about},
        )
    )


def _signed(media_type: str, content: bytes) -> Signed:
    """An envelope that cannot be read vouches for nothing."""
    try:
        envelope = signature.opened(content) if media_type == signature.MEDIA_TYPE else None
    except TrtpackError:
        envelope = None
    return Signed(envelope.payload if envelope else content, envelope)


def _contents(registry: Registry, digest: str, kind: str) -> Iterator[tuple[str, bytes]]:
    for entry in registry.referrers(digest, kind):
        for layer in stored_manifest(registry, entry.digest).layers[:1]:
            if layer.size > _LARGEST:
                raise RegistryError(f"{registry.reference.at(entry.digest)} is too large to be a {kind}")
            yield layer.media_type, registry.small_blob(layer)
