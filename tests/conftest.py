"""What every test may ask for."""

from __future__ import annotations

import compileall
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.fixtures.host_agent import watching_the_host
from tests.fixtures.lab import ROOT, Lab

settings.register_profile("licet", deadline=None)  # a busy machine is no failure
settings.load_profile("licet")


def pytest_sessionstart() -> None:
    """With PYTHONDONTWRITEBYTECODE each agent that a test starts would compile anew what has changed."""
    compileall.compile_dir(ROOT / "agent", quiet=2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--host-agent", action="store_true", help="beside a licet that watches the whole host")


@pytest.fixture(scope="session", autouse=True)
def host_agent(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a host in use there is one already: whatever tests attach is below it."""
    one_of_several = os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0"
    if one_of_several or not request.config.getoption("--host-agent"):
        yield
        return
    with watching_the_host():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for the lab, or says so itself, needs root; without it, it is skipped."""
    for item in items:
        if {"lab", "shared_lab"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.root)
        if os.geteuid() != 0 and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A laboratory of this test's own (about 0.2 s)."""
    with Lab() as built:
        yield built


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """One for a whole file, where its tests don't disturb each other."""
    with Lab() as built:
        yield built
