"""Which mode holds for a target: its own override, the host's, or the policy's word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.enforce.mode_overrides import Overrides
from agent.model import Mode, PortClass, Target
from agent.policy.document.load import parse_policy
from agent.policy.values import Policy
from tests.unit.daemon.worlds import DB, numbered
from tests.unit.kernel.memory_map import MemoryMap

ADMIN = Target("db", PortClass.ADMIN)
POLICY = """
version: 1
services:
  db: {product: p, ports: [{port: 5432, class: internal}, {port: 9187, class: admin}]}
enforcement: {default: observe, db/admin: enforce}
"""
ROOT = {"uid": 0, "pid": 1}


@dataclass
class Keeper:
    policy: Policy | None


class Host:
    def __init__(self, folder: Path) -> None:
        self.keeper = Keeper(parse_policy(POLICY))
        self.ids = numbered(DB, ADMIN)
        self.now_ns = 10**12
        self.overrides = Overrides(
            MemoryMap("modes"),
            self,
            folder / "modes.json",
            boot_ns=lambda: self.now_ns,
        )
        self.overrides.restore()
        self.modes = ModesInForce(self.keeper, self.overrides)  # type: ignore[arg-type]

    def targets_in_force(self) -> tuple[Target, ...]:
        return self.keeper.policy.targets if self.keeper.policy else (DB, ADMIN)

    def set(self, scope: str | None, mode: Mode, for_s: float | None = None) -> None:
        self.overrides.set(scope, mode, for_s, **ROOT)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_without_overrides_the_policy_says_it(host: Host) -> None:
    assert host.modes.enforcing() == {DB: False, ADMIN: True}
    assert host.modes.effective(ADMIN).source == "policy"


def test_an_override_of_the_host_holds_for_every_target_without_its_own(host: Host) -> None:
    host.set(None, Mode.OBSERVE)
    assert host.modes.enforcing() == {DB: False, ADMIN: False}
    host.set("db/internal", Mode.ENFORCE)
    assert host.modes.enforcing() == {DB: True, ADMIN: False}
    assert [host.modes.effective(one).source for one in (DB, ADMIN)] == ["override", "host override"]


def test_after_its_time_the_policy_holds_again(host: Host) -> None:
    host.set(None, Mode.OBSERVE, 60)
    assert not host.modes.enforces(ADMIN)
    host.now_ns += 61 * 10**9
    assert host.modes.enforces(ADMIN)


def test_gates_stay_while_something_enforces_or_will_by_itself(host: Host) -> None:
    assert host.modes.needs_gates()
    host.set("db/admin", Mode.OBSERVE, 60)
    assert host.modes.needs_gates()
    host.set("db/admin", Mode.OBSERVE)
    assert not host.modes.needs_gates()
    host.set("db/internal", Mode.ENFORCE, 60)
    assert host.modes.needs_gates()


def test_an_override_waits_for_its_target_to_return(host: Host) -> None:
    host.set("db/admin", Mode.OBSERVE)
    host.keeper.policy = parse_policy(POLICY.replace(", {port: 9187, class: admin}", "").replace(
        ", db/admin: enforce", ""
    ))  # fmt: skip
    assert host.modes.overridden() == []
    host.keeper.policy = parse_policy(POLICY)
    assert [one.target for one in host.modes.overridden()] == [ADMIN]


def test_without_a_policy_nothing_enforces(host: Host) -> None:
    host.keeper.policy = None
    assert (host.modes.enforcing(), host.modes.needs_gates()) == ({}, False)
    assert host.modes.of_policy(ADMIN) is Mode.OBSERVE
