"""Which blocks of the KV cache are free, which hold a prefix worth keeping. Plain Python: a block is a number."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens each.

    A block has users: requests that read it. Without any it is free, and keeps what it holds until it is taken: a full
    block that was published under the hash of its prefix can be shared instead. Free blocks that nobody can find are
    taken first, then the least recently used, of one request the last first: its head is what others share.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool of {num_blocks} blocks of {block_size} tokens holds nothing")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._users = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._blocks: dict[bytes, int] = {}
        self._hashes: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks without users, whether they can still be shared or not."""
        return len(self._free)

    @property
    def num_published(self) -> int:
        """Blocks that can be found by their prefix."""
        return len(self._blocks)

    @property
    def usage(self) -> float:
        """The share of blocks in use, 0 to 1."""
        return 1 - len(self._free) / self.num_blocks

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest published prefix; they stay free until they are allocated."""
        found: list[int] = []
        for name in hashes:
            if (block := self._blocks.get(name)) is None:
                break
            found.append(block)
        return found

    def allocate(self, count: int, shared: Sequence[int] = ()) -> list[int] | None:
        """One more user for `shared` blocks, and `count` others; None, changing nothing, when fewer are free."""
        unused = [block for block in shared if not self._users[block]]
        if count + len(unused) > len(self._free):
            return None
        for block in unused:
            del self._free[block]
        # Blocks side by side are read the fastest: see runtime.kernels.tiled.
        taken = sorted(self._take() for _ in range(count))
        for block in (*shared, *taken):
            self._users[block] += 1
        return [*shared, *taken]

    def publish(self, block: int, name: bytes) -> None:
        """Lets others find a full block by the hash of its prefix; of two with the same one the first is found."""
        if name not in self._blocks and block not in self._hashes:
            self._blocks[name], self._hashes[block] = block, name

    def free(self, blocks: Sequence[int]) -> None:
        """Ends one use of each block of a request, in its order. Raises ValueError for a block that is not in use."""
        for block in reversed(blocks):
            if not self._users[block]:
                raise ValueError(f"block {block} is not in use")
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
                if block not in self._hashes:
                    self._free.move_to_end(block, last=False)

    def forget(self) -> None:
        """Makes every prefix unfindable; users keep their blocks."""
        self._blocks.clear()
        self._hashes.clear()

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        if name := self._hashes.pop(block, None):
            del self._blocks[name]
        return block
