"""Names of prefixes: a hash for every full block, chained, so that equal names mean equal tokens from the start on."""

from array import array
from collections.abc import Sequence
from hashlib import sha256


def root(*salts: str) -> bytes:
    """What a chain begins with; chains of other salts never meet (an adapter's, a tenant's)."""
    return sha256(b"".join(len(salt.encode()).to_bytes(8, "little") + salt.encode() for salt in salts)).digest()


def extend(chain: list[bytes], tokens: Sequence[int], blocks: int, block_size: int) -> None:
    """Lengthens `chain`, a root and the names of blocks, in place to the first `blocks` blocks of `tokens`."""
    for index in range(len(chain) - 1, blocks):
        block = tokens[index * block_size : (index + 1) * block_size]
        chain.append(sha256(chain[-1] + array("q", block).tobytes()).digest())
