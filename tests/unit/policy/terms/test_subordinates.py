"""Ranges of ids as the blocks of a longest-prefix table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.terms.subordinates import blocks_of, blocks_with

END = (1 << 32) - 1
IDS = st.one_of(st.integers(0, 40), st.integers(END - 40, END))
RANGES = st.lists(st.tuples(st.builds(range, IDS, IDS), st.integers(0, 7)), max_size=6)


@given(RANGES, IDS)
def test_an_id_has_what_all_ranges_say_that_it_is_in(ranges: list[tuple[range, int]], number: int) -> None:
    blocks = blocks_of(ranges)
    expected = 0
    for ids, bits in ranges:
        expected |= bits if number in ids else 0
    found = [blocks[block] for block in blocks_with(number) if block in blocks]
    assert found == ([expected] if expected else [])


def test_a_usual_range_takes_few_blocks_and_neighbours_share_them() -> None:
    assert len(blocks_of([(range(100000, 165536), 1)])) == 12
    apart = [(range(first, first + 65536), 1) for first in range(100000, 100000 + 1000 * 65536, 65536)]
    assert len(blocks_of(apart)) < 40
    assert blocks_of([(range(1 << 32), 1)]) == {(0, 0): 1}
