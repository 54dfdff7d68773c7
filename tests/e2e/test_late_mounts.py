"""Folders that are mounted, or unmounted, while the daemon runs. Nothing else tells it to look."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.mounts import TMPFS, mounted
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.vendor import Vendor
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services: {orders: {product: acme-orders, ports: [{port: 7710, class: internal}]}}
principals: {billing: [{uid: 1001}]}
"""
ACME = Vendor()


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY) as running:
        running.files.licenses.mkdir()
        running.files.keys.mkdir()
        yield running


def states(agent: RunningAgent) -> dict[str, str]:
    return {one["file"]: one["state"] for one in agent.control("GET", "/v1/licenses")["licenses"]}


def trouble(agent: RunningAgent) -> str:
    return str(agent.status()["troubles"].get("licenses", ""))


def becomes(agent: RunningAgent, expected: dict[str, str]) -> None:
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: states(agent) == expected, "licenses", timeout_s=20)
    assert states(agent) == expected


def test_licenses_and_keys_that_are_mounted_late(agent: RunningAgent) -> None:
    files = agent.files
    filled = files.directory / "filled"
    filled.mkdir()
    (filled / "a.json").write_bytes(ACME.sign(ACME.license()))
    with mounted(files.licenses, ("--bind", filled), "--lazy"):
        becomes(agent, {"a.json": "unknown_key"})
        pinned = files.directory / "pinned"
        ACME.pin(pinned)
        with mounted(files.keys, ("--bind", pinned), "--lazy"):
            becomes(agent, {"a.json": "valid"})


def test_an_unmount_withdraws_nothing_and_is_told(agent: RunningAgent) -> None:
    with mounted(agent.files.licenses, TMPFS, "--lazy"):
        ACME.pin(agent.files.keys)
        (agent.files.licenses / "a.json").write_bytes(ACME.sign(ACME.license()))
        becomes(agent, {"a.json": "valid"})
    wait_for(lambda: "another file system" in trouble(agent), "trouble licenses")
    becomes(agent, {"a.json": "valid"})


def test_a_policy_folder_that_is_mounted_late(agent: RunningAgent) -> None:
    more = agent.files.directory / "more"
    more.mkdir()
    (more / "more.yaml").write_text("version: 1\nprincipals: {more: [{uid: 1002}]}\n")
    before = agent.files.policy_sha256()

    with mounted(agent.files.directory / "policy.d", ("--bind", more), "--lazy"):
        now = agent.files.policy_sha256()
        assert now != before
        wait_for(lambda: agent.status()["policy"]["sha256"] == now, "the mounted policy")
