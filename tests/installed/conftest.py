"""Packages and systems for these tests. `make test-packages` runs them: they take longer than the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.lab import Lab
from tests.installed import packages
from tests.installed.bare_system import BareSystem, bare_tree


@pytest.fixture(scope="session")
def deb() -> Path:
    return packages.package(packages.tested_release())


@pytest.fixture(scope="session")
def next_deb() -> Path:
    return packages.next_package(packages.tested_release())


@pytest.fixture
def bare(lab: Lab) -> Iterator[BareSystem]:
    with BareSystem(lab, bare_tree()) as system:
        yield system
