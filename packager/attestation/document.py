"""An SBOM as a verifier reads it: as much of a CycloneDX document as names what is listed."""

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from packager.errors import TrtpackError

_SHA256 = "SHA-256"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Hash(_Part):
    alg: str
    content: str


class _Property(_Part):
    name: str
    value: str = ""


class Component(_Part):
    type: str
    name: str
    version: str = ""
    purl: str = ""
    hashes: tuple[_Hash, ...] = ()
    properties: tuple[_Property, ...] = ()
    components: tuple["Component", ...] = ()

    @property
    def sha256(self) -> str:
        """In hex; "" where it has none."""
        return next((one.content for one in self.hashes if one.alg == _SHA256), "")

    def fact(self, name: str) -> str:
        """The value of one of our own properties; "" where there is none."""
        return next((one.value for one in self.properties if one.name == f"trtpack:{name}"), "")

    def files(self) -> dict[str, str]:
        """sha256 in hex of the files inside, by name."""
        return {one.name: one.sha256 for one in self.components if one.type == "file"}


class _Metadata(_Part):
    component: Component


class Document(_Part):
    format: str = Field(alias="bomFormat", pattern="^CycloneDX$")
    metadata: _Metadata
    components: tuple[Component, ...] = ()

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Raises TrtpackError for what is no CycloneDX document in JSON with a subject."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise TrtpackError(f"it is not a CycloneDX document: {error.errors()[0]['msg']}") from error

    @property
    def subject(self) -> Component:
        return self.metadata.component

    def listed(self) -> dict[str, str]:
        """Everything in it by what it is, with its digest, or else its version."""
        return {
            f"{one.type} {place}{one.purl or one.name}": one.sha256 or one.version
            for place, one in _walk("", self.components)
        }

    def count(self) -> int:
        """How many components it lists, those inside others too."""
        return sum(1 for _ in _walk("", (*self.subject.components, *self.components)))

    def base(self) -> tuple[str, int] | None:
        """The image that this one was built on, and how many of the layers are its; None where it names none."""
        found = [(one.name, one.fact("layers")) for one in self.components if one.type == "container"]
        return (found[0][0], int(found[0][1])) if found and found[0][1].isdecimal() else None


def _walk(place: str, components: tuple[Component, ...]) -> Iterator[tuple[str, Component]]:
    for one in components:
        yield place, one
        yield from _walk(f"{one.name}: ", one.components)
