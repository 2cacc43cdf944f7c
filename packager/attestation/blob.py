"""A blob of a registry as it comes, without a copy of it on disk."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor


class Content(io.RawIOBase):
    """Bytes that are read once, as a file; `digest` is that of what has been read, such as "sha256:e3b0…"."""

    def __init__(self, chunks: Iterator[bytes], advance: Callable[[int], object]) -> None:
        self._chunks, self._advance = chunks, advance
        self._left = b""
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer has no slices
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._sha256.update(chunk)
            self._advance(len(chunk))
            self._left = chunk
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"

    def drain(self) -> None:
        """Reads what is left."""
        while self.read(2**20):
            pass


@contextmanager
def opened(registry: Registry, descriptor: Descriptor, advance: Callable[[int], object]) -> Iterator[Content]:
    """`advance` is called with each number of bytes that came. Raises RegistryError."""
    with registry.blob(descriptor) as (_, chunks):
        yield Content(chunks, advance)
