"""Statements of where something came from, as in-toto and SLSA write them down.

in-toto Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md) and SLSA provenance v1
(slsa.dev/spec/v1.0/provenance). The package in-toto-attestation was looked at: it is generated from Protocol Buffers,
so it has no types for a checker, and leaves a predicate's fields to a free-form structure.
"""

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from packager.errors import TrtpackError

MEDIA_TYPE = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"
# URNs of our own: what they stand for is in docs/07-supply-chain.md.
COMPILE, BUILD = "urn:trtpack:compile:v1", "urn:trtpack:build:v1"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=True)


class Resource(_Part):
    """Something by name, address or digest: hex by algorithm, of which "gitCommit" is one."""

    name: str | None = None
    uri: str | None = None
    digest: dict[str, str] | None = None
    media_type: str | None = None


class Definition(_Part):
    build_type: str
    external_parameters: dict[str, Any]
    resolved_dependencies: tuple[Resource, ...] = ()


class Builder(_Part):
    """`id`: who is trusted to have done it."""

    id: str
    version: dict[str, str] = Field(default_factory=dict)


class Run(_Part):
    """`byproducts`: what else came of it, such as the SBOM."""

    builder: Builder
    byproducts: tuple[Resource, ...] = ()


class Provenance(_Part):
    build_definition: Definition
    run_details: Run


class Statement(_Part):
    """That the predicate holds of each `subject`, which has a digest."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = STATEMENT
    subject: tuple[Resource, ...]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = PROVENANCE
    predicate: Provenance

    def dump(self) -> bytes:
        """Canonical JSON: the same bytes for the same content."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Raises TrtpackError for what is no such statement."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise TrtpackError(f"not an in-toto statement of provenance: {error.errors()[0]['msg']}") from error

    def is_of(self, digest: str) -> bool:
        """Whether a subject has that digest, such as "sha256:e3b0…"."""
        algorithm, _, value = digest.partition(":")
        return any((one.digest or {}).get(algorithm) == value for one in self.subject)

    def byproduct(self, name: str) -> str | None:
        """The digest, such as "sha256:e3b0…", of what came of it under that name."""
        found = [one.digest for one in self.predicate.run_details.byproducts if one.name == name]
        return f"sha256:{found[0]['sha256']}" if found and found[0] and "sha256" in found[0] else None
