"""What a registry holds, as it is written down there: descriptors, manifests and indexes.

The format is the OCI image specification 1.1 (github.com/opencontainers/image-spec, manifest.md and image-index.md).
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
# What Docker's own engine writes; the fields that we read have the same names.
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=True)


class Descriptor(_Part):
    """A blob or a manifest: what it is, and its sha256 and size in bytes."""

    media_type: str
    digest: Digest
    size: int = Field(ge=0)
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


class _Document(_Part):
    def dump(self) -> bytes:
        """Canonical JSON: the same bytes, so the same digest, for the same content."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class ImageManifest(_Document):
    """An image or an artifact; `subject` is the manifest that it says something of, which makes it a referrer."""

    schema_version: Literal[2] = 2
    media_type: str = MANIFEST
    artifact_type: str | None = None
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class ImageIndex(_Document):
    """Manifests under one name, of which a reader takes the one that fits."""

    schema_version: Literal[2] = 2
    media_type: str = INDEX
    artifact_type: str | None = None
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] | None = None

    def replacing(self, *descriptors: Descriptor) -> Self:
        """The index with these in the place of those of the same digest, ordered by digest."""
        kept = {entry.digest: entry for entry in (*self.manifests, *descriptors)}
        return self.model_copy(update={"manifests": tuple(kept[digest] for digest in sorted(kept))})


def digest_of(content: bytes) -> str:
    """Such as "sha256:e3b0…"."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def described(content: bytes, media_type: str, annotations: dict[str, str] | None = None) -> Descriptor:
    """The descriptor of some bytes."""
    return Descriptor(
        media_type=media_type, digest=digest_of(content), size=len(content), annotations=annotations or None
    )


def reason(error: ValidationError) -> str:
    """The first thing wrong, in one line."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
