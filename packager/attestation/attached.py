"""What is attached to a manifest in a registry: an SBOM and a statement of provenance, as referrers of it.

OCI image specification 1.1, manifest.md, "Guidelines for Artifact Usage": an empty config, one layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.dsse import Envelope

from packager.attestation import bom, engine, image, local, provenance, signature
from packager.attestation.image import BUILT_BY
from packager.attestation.statement import MEDIA_TYPE as STATEMENT
from packager.errors import TrtpackError
from runtime.errors import RegistryError
from runtime.registry import oci
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageManifest
from runtime.registry.reference import Reference

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
    statement = provenance.of_engine(_name(registry), subject.digest, found, sbom)
    _attach(registry, subject, sbom, statement.dump(), key, bom.describe(found.manifest))


def attach_image(pushed: str, name: str, key: Path | None = None, *, base: str | None = None) -> None:
    """The same for an image that was pushed as `pushed` and that this machine's container engine has as `name`.

    `pushed` is REGISTRY/NAME@DIGEST, or NAME@DIGEST of Docker Hub; `base` is what the image was built on, where its
    labels do not say it. Raises TrtpackError where `name` is another image.
    """
    with Registry(_reference(pushed)) as registry:
        stored = stored_manifest(registry, registry.reference.name)
        subject = oci.described(_content(registry, registry.reference.name), stored.media_type)
        described = local.described(name)
        if described.layers != stored_image(registry, stored).layers:
            raise TrtpackError(f"{name} is not the image {subject.digest} that is in the registry", "Push it again.")
        below = local.base_of(described, base)
        evidence = image.evidence(described, local.read(name), below)
        statement = provenance.of_image(_name(registry), subject.digest, described, below, evidence)
        about = f"image built by trtpack {described.labels.get(BUILT_BY, 'of an unknown version')}"
        _attach(registry, subject, evidence.sbom, statement.dump(), key, about)


def read(registry: Registry, digest: str) -> Attached:
    """Raises RegistryError for what is damaged."""
    statements = [_signed(*found) for found in _contents(registry, digest, STATEMENT)]
    sboms = [content for _, content in _contents(registry, digest, bom.MEDIA_TYPE)]
    return Attached(tuple(sboms), tuple(statements))


def stored_manifest(registry: Registry, name: str) -> ImageManifest:
    """At a digest or a tag. Raises RegistryError where there is none, or what is there is something else."""
    try:
        return ImageManifest.model_validate_json(_content(registry, name))
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


def _attach(
    registry: Registry, subject: Descriptor, sbom: bytes, statement: bytes, key: Path | None, about: str
) -> None:
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


def _content(registry: Registry, name: str) -> bytes:
    content = registry.manifest(name)
    if content is None:
        raise RegistryError(f"{name} of {registry.reference} is not in the registry: push it again")
    return content


def _reference(pushed: str) -> Reference:
    """Docker leaves its own Hub out of names, and there "library/"."""
    first, slash, _ = pushed.partition("/")
    if "." in first or ":" in first or first == "localhost":
        return Reference.parse(pushed)
    return Reference.parse(f"docker.io/{pushed}" if slash else f"docker.io/library/{pushed}")


def _name(registry: Registry) -> str:
    return f"{registry.reference.registry}/{registry.reference.repository}"
