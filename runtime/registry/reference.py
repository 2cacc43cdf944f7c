"""Names of things in an OCI registry."""

import re
from dataclasses import dataclass, replace
from typing import Self

from runtime.errors import RegistryError

SCHEME = "oci://"
# The grammar of the distribution specification 1.1, "Pulling manifests".
_REPOSITORY = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
_REFERENCE = re.compile(
    rf"(?P<registry>[A-Za-z0-9.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)/(?P<repository>{_REPOSITORY})"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """`registry` is host[:port]; `digest` such as "sha256:…" goes before `tag` where both are given."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads [oci://]REGISTRY/NAME[:TAG][@DIGEST]; without either the tag is "latest". Raises RegistryError."""
        match = _REFERENCE.fullmatch(text.removeprefix(SCHEME))
        if not match or not _is_host(match["registry"]):
            raise RegistryError(
                f"{text} names nothing in a registry: write it as oci://REGISTRY/NAME:TAG, "
                "such as oci://europe-docker.pkg.dev/me/models/smollm:1"
            )
        tag = match["tag"] or (None if match["digest"] else "latest")
        return cls(match["registry"], match["repository"], tag, match["digest"])

    @property
    def name(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag or "latest"

    def at(self, digest: str) -> Self:
        """The same repository at that digest."""
        return replace(self, tag=None, digest=digest)

    def tagged(self, tag: str) -> Self:
        """The same repository at that tag."""
        return replace(self, tag=tag, digest=None)

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{SCHEME}{self.registry}/{self.repository}{tag}{digest}"


def _is_host(text: str) -> bool:
    """As Docker tells a registry from the first part of a name."""
    return text == "localhost" or any(sign in text for sign in ".:")
