"""Which names /metrics answers to."""

from __future__ import annotations

import os

import pytest

from agent.export.api import public_app
from agent.export.hosts import Hosts
from tests.unit.export.fake_agent import FakeAgent
from tests.unit.export.test_api import App

NODE = os.uname().nodename


def status(host: str, *named: str, path: str = "/metrics") -> int:
    return App(public_app(FakeAgent(), Hosts(named))).get(path, headers={"host": host}).status_code


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:9477",
        "10.0.0.7",
        "[::1]:9477",
        "[2001:db8::7]",
        "localhost:9477",
        "LOCALHOST",
        "localhost.",
        NODE,
        f"{NODE}:9477",
        "",
    ],
)
def test_addresses_and_the_nodes_own_names_need_no_setting(host: str) -> None:
    assert status(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9477",
        "127.0.0.1.evil.example",
        f"{NODE}.evil.example",
        "localhost.evil.example",
        "[evil.example]:9477",
        "0x7f.1",
        "%31",
    ],
)
def test_a_name_that_somebody_made_up_is_refused_with_the_way_out(host: str) -> None:
    answer = App(public_app(FakeAgent(), Hosts())).get("/metrics", headers={"host": host})
    assert answer.status_code == 421
    assert "`hosts` of config.yaml" in answer.json()["error"]
    assert "licet_connections" not in answer.text


def test_a_name_that_is_configured_is_answered_to() -> None:
    assert status("node7.prod.example:9477", "node7.prod.example") == 200
    assert status("NODE7.prod.example.", "node7.prod.example") == 200
    assert status("node8.prod.example", "node7.prod.example") == 421
    assert status("anything.example", "*") == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_says_nothing_that_a_page_could_want(path: str) -> None:
    assert status("evil.example", path=path) in (200, 503)
