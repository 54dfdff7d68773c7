"""A laboratory for a whole file, where its tests don't disturb each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.lab import Lab


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with Lab() as built:
        yield built
