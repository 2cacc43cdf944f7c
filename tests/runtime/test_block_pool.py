"""Blocks are shared by name, given up in order of use, and never lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.block_pool import BlockPool


def taken(pool: BlockPool, count: int, shared: list[int] | None = None) -> list[int]:
    blocks = pool.allocate(count, shared or [])
    assert blocks is not None
    return blocks


def test_blocks_for_rounds_up() -> None:
    pool = BlockPool(4, 16)
    assert [pool.blocks_for(n) for n in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]


def test_a_failed_allocation_takes_nothing() -> None:
    pool = BlockPool(3, 16)
    taken(pool, 2)
    assert pool.allocate(2) is None
    assert pool.num_free == 1


def test_a_failed_allocation_leaves_a_shared_prefix_as_it_was() -> None:
    pool = BlockPool(4, 16)
    first, second = taken(pool, 2)
    pool.publish(first, b"a")
    pool.publish(second, b"b")
    pool.free([first, second])
    assert pool.find([b"a", b"b"]) == [first, second]
    assert pool.allocate(3, [first, second]) is None
    assert pool.num_free == 4
    held = taken(pool, 2, [first, second])
    assert held[:2] == [first, second]
    pool.free(held)  # one use each: a count left behind by the failure would keep them
    assert pool.num_free == 4


def test_a_block_that_is_not_in_use_cannot_be_freed() -> None:
    pool = BlockPool(3, 16)
    blocks = taken(pool, 1)
    pool.free(blocks)
    with pytest.raises(ValueError, match="not in use"):
        pool.free(blocks)


@pytest.mark.parametrize(("blocks", "size"), [(0, 16), (4, 0)])
def test_an_empty_pool_is_refused(blocks: int, size: int) -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        BlockPool(blocks, size)


def test_only_an_unbroken_prefix_is_found() -> None:
    pool = BlockPool(4, 16)
    blocks = taken(pool, 3)
    for block, name in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.publish(block, name)
    assert pool.find([b"a", b"x", b"c"]) == blocks[:1]
    assert pool.find([b"b"]) == [blocks[1]]
    assert pool.find([b"x"]) == []


def test_eviction_order_is_unnamed_then_tails_then_heads_least_recently_used_first() -> None:
    pool = BlockPool(7, 16)
    old, new, unnamed = taken(pool, 2), taken(pool, 3), taken(pool, 2)
    for index, block in enumerate([*old, *new]):
        pool.publish(block, bytes([index]))
    pool.free(old)
    pool.free(new)
    pool.free(unnamed)
    order = [taken(pool, 1)[0] for _ in range(7)]
    assert order == [*unnamed, *reversed(old), *reversed(new)]


def test_a_hit_makes_a_prefix_recent_again() -> None:
    pool = BlockPool(2, 16)
    first, second = taken(pool, 1), taken(pool, 1)
    pool.publish(first[0], b"first")
    pool.publish(second[0], b"second")
    pool.free(first)
    pool.free(second)
    pool.free(taken(pool, 0, pool.find([b"first"])))
    taken(pool, 1)
    assert pool.find([b"first"]) == first
    assert pool.find([b"second"]) == []


def test_a_block_taken_for_something_else_is_found_no_more() -> None:
    pool = BlockPool(1, 16)
    block = taken(pool, 1)
    pool.publish(block[0], b"old")
    pool.free(block)
    taken(pool, 1)
    assert pool.find([b"old"]) == []
    pool.publish(block[0], b"new")
    assert pool.find([b"new"]) == block


def test_of_two_blocks_with_one_name_the_first_is_found() -> None:
    pool = BlockPool(2, 16)
    first, second = taken(pool, 2)
    pool.publish(first, b"same")
    pool.publish(second, b"same")
    assert pool.find([b"same"]) == [first]
    pool.free([second])
    assert taken(pool, 1) == [second]
    assert pool.find([b"same"]) == [first]


def test_a_block_is_free_when_its_last_user_leaves() -> None:
    pool = BlockPool(2, 16)
    block = taken(pool, 1)
    pool.publish(block[0], b"a")
    again = taken(pool, 0, pool.find([b"a"]))
    pool.free(block)
    assert pool.num_free == 1
    pool.free(again)
    assert pool.num_free == 2


def test_after_forgetting_users_keep_their_blocks_and_nobody_finds_them() -> None:
    pool = BlockPool(2, 16)
    block = taken(pool, 1)
    pool.publish(block[0], b"a")
    pool.forget()
    assert pool.find([b"a"]) == []
    assert pool.num_free == 1
    pool.free(block)
    assert pool.num_free == 2


Step = tuple[bool, int, int]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 4)), max_size=80))
def test_no_block_is_lost_or_written_by_two(steps: list[Step]) -> None:
    """Prefixes of one chain of names: `shared` of them are looked for, `count` more are taken and named."""
    pool, owned = BlockPool(12, 4), list[list[int]]()
    for take, count, shared in steps:
        if take:
            found = pool.find(bytes([index]) for index in range(shared))
            before = pool.num_free
            blocks = pool.allocate(count, found)
            if blocks is None:
                assert pool.num_free == before
                continue
            assert blocks[: len(found)] == found
            assert not set(blocks[len(found) :]) & {block for held in owned for block in held}
            owned += [blocks]
            for index in range(len(found), len(blocks)):
                pool.publish(blocks[index], bytes([index]))
        elif owned:
            pool.free(owned.pop(count % len(owned)))
        held = {block for blocks in owned for block in blocks}
        assert pool.num_free + len(held) == 12
        assert pool.usage == pytest.approx(len(held) / 12)
    for blocks in owned:
        pool.free(blocks)
    assert pool.num_free == 12
