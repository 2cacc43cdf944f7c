import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.block_pool import BlockPool


def test_blocks_for_rounds_up() -> None:
    pool = BlockPool(4, 16)
    assert [pool.blocks_for(n) for n in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]


def test_a_failed_allocation_takes_nothing() -> None:
    pool = BlockPool(3, 16)
    pool.allocate(2)
    assert pool.allocate(2) is None
    assert pool.num_free == 1


def test_a_block_that_is_not_in_use_cannot_be_freed() -> None:
    pool = BlockPool(3, 16)
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.free(blocks)
    with pytest.raises(ValueError, match="not in use"):
        pool.free(blocks)


@pytest.mark.parametrize(("blocks", "size"), [(0, 16), (4, 0)])
def test_an_empty_pool_is_refused(blocks: int, size: int) -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        BlockPool(blocks, size)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_no_block_is_lost_or_owned_twice(steps: list[tuple[bool, int]]) -> None:
    pool, owned = BlockPool(12, 4), list[list[int]]()
    for take, count in steps:
        if take:
            blocks = pool.allocate(count)
            assert (blocks is None) == (count > 12 - sum(map(len, owned)))
            owned += [blocks] if blocks else []
        elif owned:
            pool.free(owned.pop(count % len(owned)))
        held = [block for blocks in owned for block in blocks]
        assert len(held) == len(set(held))
        assert pool.num_free + len(held) == 12
        assert pool.usage == len(held) / 12
