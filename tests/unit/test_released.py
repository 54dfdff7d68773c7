"""The release's date is where license time begins on a host that knows no better one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from agent import RELEASED

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def test_it_is_that_of_the_newest_release_and_not_in_the_future() -> None:
    dates = re.findall(r"^## \[[\d.]+\] - (\d{4}-\d\d-\d\d)$", CHANGELOG.read_text(), flags=re.MULTILINE)
    assert f"{RELEASED:%Y-%m-%d}" == max(dates)
    assert datetime.now(UTC) >= RELEASED, "a license would end before its time"
