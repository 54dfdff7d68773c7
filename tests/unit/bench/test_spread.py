from __future__ import annotations

import pytest

from tests.bench.spread import paired_ratio, spread


def test_the_median_is_not_moved_by_one_wild_value() -> None:
    found = spread([10.0, 11.0, 9.0, 1000.0, 10.0])
    assert (found.median, found.q1, found.q3, found.samples) == (10.0, 10.0, 11.0, 5)


def test_one_value_has_no_spread() -> None:
    assert spread([3.0]).to_json() == {"median": 3.0, "q1": 3.0, "q3": 3.0, "samples": 1}


def test_a_machine_that_slows_down_between_rounds_does_not_change_the_ratio() -> None:
    assert paired_ratio(on=[90.0, 45.0, 9.0], off=[100.0, 50.0, 10.0]).median == pytest.approx(0.9)


def test_rounds_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratio(on=[1.0, 2.0, 3.0], off=[1.0, 2.0, 3.0, 4.0])
