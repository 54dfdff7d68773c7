"""Ranges of ports, held against sets of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.terms.ports import ByPort, Ports, borders, pieces, pieces_of


@dataclass(frozen=True, slots=True)
class Run:
    first: int
    last: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))


RUNS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(0, 12)).map(lambda one: Run(one[0], one[0] + one[1])),
    max_size=8,
)


@given(RUNS)
def test_a_set_has_the_ports_of_its_ranges(runs: list[Run]) -> None:
    made = Ports.of(runs)
    wanted = {port for run in runs for port in run}
    assert list(made) == sorted(wanted)
    assert {port for port in range(50) if port in made} == wanted
    assert bool(made) == bool(wanted)
    assert all(before[1] + 1 < after[0] for before, after in zip(made.ranges, made.ranges[1:], strict=False))


def test_a_set_holds_nothing_but_ports() -> None:
    assert "5432" not in Ports(((1, 65535),))
    assert 65535 in Ports(((1, 65535),))


@given(RUNS)
def test_pieces_are_where_the_same_ranges_are(runs: list[Run]) -> None:
    items = list(enumerate(runs))
    found = {
        port: {number for number, _ in here}
        for first, last, here in pieces(items, lambda one: one[1])
        for port in range(first, last + 1)
    }
    wanted = {port: {number for number, run in items if port in set(run)} for run in runs for port in run}
    assert found == wanted


@given(RUNS)
def test_what_a_range_costs_is_how_many_pieces_it_is_in(runs: list[Run]) -> None:
    items = list(enumerate(runs))
    found = [number for _, _, here in pieces(items, lambda one: one[1]) for number, _ in here]
    for number, run in items:
        assert found.count(number) == pieces_of(run, borders(runs))


@given(RUNS)
def test_by_port_there_is_what_a_look_at_all_finds_in_the_given_order(runs: list[Run]) -> None:
    items = list(enumerate(runs))
    made = ByPort.of(items, lambda one: one[1])
    for port in range(50):
        assert list(made.at(port)) == [item for item in items if port in set(item[1])]
