"""What was read of prompts is found by who read it and by all that came before; it is bounded."""

from __future__ import annotations

from bot.policy.prefixes import BLOCK_TOKENS, PrefixCache, block_keys, followers

TEXT = tuple(range(3 * BLOCK_TOKENS + 5))
"""Three whole blocks and a piece."""


def cache_of(max_blocks: int = 100) -> PrefixCache[tuple[int, int]]:
    return PrefixCache(max_blocks)


def span(start: int, end: int) -> tuple[int, int]:
    return start, end


def blocks(count: int) -> list[tuple[int, int]]:
    return [(i * BLOCK_TOKENS, (i + 1) * BLOCK_TOKENS) for i in range(count)]


def test_whole_blocks_of_a_beginning_are_found_again() -> None:
    """Of another prompt that parts in the third block, two are; a piece of a block never is."""
    cache = cache_of()
    assert cache.find("v1", TEXT) == []
    cache.keep("v1", TEXT, span)
    assert cache.find("v1", TEXT) == blocks(3)
    assert cache.find("v1", (*TEXT[: 3 * BLOCK_TOKENS - 1], -1)) == blocks(2)
    assert cache.find("v1", TEXT[: BLOCK_TOKENS - 1]) == []


def test_versions_share_nothing() -> None:
    """What one read is not what another would read; the middle of a text is not its beginning."""
    cache = cache_of()
    cache.keep("v1", TEXT, span)
    assert cache.find("v2", TEXT) == []
    assert cache.find("v1", TEXT[BLOCK_TOKENS:]) == []


def test_only_what_is_missing_is_made() -> None:
    """The second text shares a block."""
    cache, made = cache_of(), list[int]()
    cache.keep("v1", TEXT, span)
    other = (*TEXT[:BLOCK_TOKENS], *range(1000, 1000 + BLOCK_TOKENS))
    cache.keep("v1", other, lambda start, end: made.append(start) or (start, end))
    assert made == [BLOCK_TOKENS]


def test_the_least_used_goes_first_and_the_end_before_the_beginning() -> None:
    """Room for four blocks: three of one text and two of another that came later."""
    cache = cache_of(4)
    other = tuple(range(1000, 1000 + 2 * BLOCK_TOKENS))
    cache.keep("v1", TEXT, span)
    cache.keep("v1", other, span)
    assert cache.find("v1", TEXT) == blocks(2)
    assert cache.find("v1", other) == blocks(2)
    assert (cache.stats.num_evicted, cache.stats.num_blocks) == (1, 4)


def test_of_those_who_begin_alike_one_reads_and_the_others_wait() -> None:
    """The second begins as the first, the third parts from both in its second block, the fourth has nothing left that it
    could share. The control: another version reads for itself."""
    first, third = block_keys("v1", TEXT), block_keys("v1", (*TEXT[:BLOCK_TOKENS], *TEXT))
    assert [len(first), first[0], first == block_keys("v1", TEXT)] == [3, third[0], True]
    assert followers([first, first, third, ()]) == {1, 2}
    assert followers([first, block_keys("v2", TEXT)]) == set()


def test_who_follows_goes_on_by_itself_where_the_ways_part() -> None:
    """All have taken over the first block: the one that parts there waits for nobody."""
    first, third = block_keys("v1", TEXT), block_keys("v1", (*TEXT[:BLOCK_TOKENS], *TEXT))
    assert followers([first[1:], first[1:], third[1:]]) == {1}


def test_a_version_that_went_leaves_nothing() -> None:
    """Others keep theirs; a version of the same name would begin anew."""
    cache = cache_of()
    cache.keep("v1", TEXT, span)
    cache.keep("v2", TEXT, span)
    cache.drop("v1")
    cache.drop("nobody")
    assert cache.stats.num_blocks == 3
    assert (cache.find("v1", TEXT), cache.find("v2", TEXT)) == ([], blocks(3))


def test_without_room_nothing_is_kept() -> None:
    """Reuse switched off."""
    cache = cache_of(0)
    cache.keep("v1", TEXT, span)
    assert cache.find("v1", TEXT) == []
