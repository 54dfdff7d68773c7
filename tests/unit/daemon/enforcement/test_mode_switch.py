from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent import abi
from agent.daemon.enforcement.failsafe import Failsafe
from agent.daemon.enforcement.mode_switch import ModeSwitch
from agent.daemon.enforcement.preview import Foreseen
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.daemon.tracking.strangers import Stranger
from agent.enforce.mode_overrides import Overrides
from agent.errors import KernelError, ModeError
from agent.export.agent_port import Caller, ModeRequest
from agent.model import Mode, PortClass, Process, Target, to_address
from agent.policy.document.load import load_policy_files
from agent.policy.tables.ids import Ids
from agent.policy.values import Finding, Place, Policy
from tests.unit.kernel.memory_map import MemoryMap

DB = Target("db", PortClass.INTERNAL)
DB_ADMIN = Target("db", PortClass.ADMIN)
WEB = Target("web", PortClass.PUBLIC)
IDS = {DB: 1, DB_ADMIN: 2, WEB: 3}
ROOT = Caller(uid=0, pid=900)
HOUR_NS = 3600 * 10**9
POLICY = """
version: 1
services:
  db: {product: p, ports: [{port: 5432, class: internal}, {port: 9187, class: admin}]}
  web: {product: p, ports: [{port: 80, class: public}, {port: 22, class: public}]}
enforcement: {default: observe, db/admin: enforce}
"""


@dataclass
class FakeGates:
    """What is asked of the gates, in order, with what the kernel's map said then."""

    map: MemoryMap
    asked: list[tuple[str, int]] = field(default_factory=list)
    fails: bool = False
    attached: tuple[str, ...] = ("connect",)

    async def attach(self) -> None:
        self._note("attach")
        if self.fails:
            raise KernelError("a gate cannot be attached")

    async def settle(self) -> None:
        self._note("settle")

    def _note(self, what: str) -> None:
        said = sum(1 for value in self.map.rows.values() if abi.RawMode.from_buffer_copy(value).override)
        self.asked.append((what, said))


@dataclass
class FakeCutter:
    looks: int = 0

    def look_again(self) -> None:
        self.looks += 1


class World:
    def __init__(self, folder: Path) -> None:
        file = folder / "policy.yaml"
        file.write_text(POLICY)
        self.policy: Policy | None = load_policy_files([file])
        self.asked: list[list[str]] = []
        self.events: list[dict[str, Any]] = []
        self.ids = Ids(dict(IDS))
        self.map = MemoryMap("modes")
        self.gates = FakeGates(self.map)
        self.boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.overrides = Overrides(
            self.map,
            self,
            folder / "modes.json",
            boot_ns=lambda: self.boot_ns,
        )
        self.overrides.restore()
        self.modes = ModesInForce(self, self.overrides)  # type: ignore[arg-type]
        self.cutter = FakeCutter()
        self.switch = ModeSwitch(
            modes=self.modes,
            gates=self.gates,  # type: ignore[arg-type]
            cutter=self.cutter,  # type: ignore[arg-type]
            foresight=self,  # type: ignore[arg-type]
            rights=self,  # type: ignore[arg-type]
            strangers=self,  # type: ignore[arg-type]
            last_hour=self,  # type: ignore[arg-type]
            failsafe=Failsafe(self, frozenset({22})),  # type: ignore[arg-type]
            audit=self,
        )
        self.strangers: list[Stranger] = []
        self.since_ns = self.boot_ns - 2 * HOUR_NS

    def targets_in_force(self) -> Sequence[Target]:
        return self.policy.targets if self.policy else ()

    def mode(self, event: dict[str, Any]) -> None:
        assert self.cutter.looks, "flows are judged by the mode that is told of"
        self.events.append(event)

    def since(self, boot_ns: int) -> list[Stranger]:
        return [one for one in self.strangers if one.last_boot_ns >= boot_ns]

    def of(
        self, targets: Collection[Target], since_ns: int, now_ns: int, failsafe: Collection[int]
    ) -> Foreseen:
        assert (now_ns - since_ns, failsafe) == (HOUR_NS, {22})
        self.asked.append(list(map(str, targets)))
        return Foreseen([{"consumer": "psql"}], [{"consumer": "cron"}])

    def lost(self, targets: Collection[Target]) -> list[Finding]:
        return [Finding(Place("policy.yaml", 3), f"ends for {target}", "say so") for target in targets]

    def ask(self, scope: str | None, mode: Mode | None, for_s: float | None = None) -> dict[str, Any]:
        return asyncio.run(self.switch.switch(ModeRequest(scope, mode, for_s), ROOT))

    def preview(self, scope: str | None, mode: Mode | None) -> dict[str, Any]:
        return self.switch.preview(ModeRequest(scope, mode))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_gates_are_attached_before_the_kernel_is_told_to_refuse(world: World) -> None:
    answer = world.ask("db", Mode.ENFORCE)
    assert world.gates.asked == [("attach", 0), ("settle", 2)]
    assert [one["scope"] for one in answer["made"]] == ["db/internal", "db/admin"]
    assert answer["gates"] == ["connect"]


def test_where_gates_cannot_be_attached_nothing_has_changed(world: World) -> None:
    world.gates.fails = True
    with pytest.raises(KernelError, match="cannot be attached"):
        world.ask("db", Mode.ENFORCE)
    assert world.map.rows == {}
    assert world.events == []
    assert world.modes.overridden() == []


def test_where_the_override_cannot_be_kept_the_gates_are_let_go_of_again(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "modes.json").mkdir()  # so that it can't be written, by root either
    with pytest.raises(KernelError, match="cannot be written"):
        world.ask("db", Mode.ENFORCE)
    assert [what for what, _ in world.gates.asked] == ["attach", "settle"]
    assert world.events == []


def test_observing_and_resetting_let_go_afterwards(world: World) -> None:
    world.ask("db", Mode.OBSERVE)
    world.ask("db", None)
    assert world.gates.asked == [("settle", 2), ("settle", 0)]


def test_every_switch_is_audited(world: World) -> None:
    world.ask("db/internal", Mode.ENFORCE, 600)
    world.ask("db/internal", Mode.OBSERVE)
    world.ask("db/internal", None)
    first, second, third = world.events
    assert first["type"] == "mode"
    assert first["caller"] == {"uid": 0, "pid": 900}
    assert (first["scope"], first["mode"], first["previous"]) == ("db/internal", "enforce", [])
    assert first["until"].endswith("Z")
    assert second["previous"] == [{"scope": "db/internal", "mode": "enforce", "until": first["until"]}]
    assert (second["until"], third["mode"], third["previous"][0]["mode"]) == (None, None, "observe")
    assert "db/internal: set to enforce until" in first["message"]
    assert first["message"].endswith("by uid 0 (pid 900)")
    assert third["message"].startswith("db/internal: override removed, by uid 0")


def test_an_override_that_ends_is_told_and_gates_are_settled(world: World) -> None:
    world.ask("db/internal", Mode.ENFORCE, 600)
    asyncio.run(world.switch.follow())
    assert len(world.events) == 1
    world.boot_ns += 600 * 10**9
    asyncio.run(world.switch.follow())
    asyncio.run(world.switch.follow())
    assert [event["message"] for event in world.events[1:]] == [
        "db/internal: enforce has ended, as it was set to"
    ]
    assert [what for what, _ in world.gates.asked] == ["attach", "settle", "settle"]


def test_what_holds_is_listed_with_where_it_comes_from(world: World) -> None:
    world.ask("db/internal", Mode.ENFORCE, 600)
    world.ask(None, Mode.OBSERVE)
    listed = world.switch.listed()
    assert [
        (one["service"], one["class"], one["mode"], one["source"], one["policy"], one["seconds_left"])
        for one in listed["targets"]
    ] == [
        ("db", "internal", "enforce", "override", "observe", 600.0),
        ("db", "admin", "observe", "host override", "enforce", None),
        ("web", "public", "observe", "host override", "observe", None),
    ]
    assert [(one["scope"], one["uid"], one["pid"]) for one in listed["overrides"]] == [
        (None, 0, 900),
        ("db/internal", 0, 900),
    ]


@pytest.mark.parametrize(
    ("scope", "turning"),
    [
        (None, ["db/internal", "web/public"]),  # the policy enforces db/admin already
        ("db", ["db/internal"]),
        ("db/admin", []),
    ],
)
def test_a_preview_looks_at_what_turns_alone(world: World, scope: str | None, turning: list[str]) -> None:
    found = world.preview(scope, Mode.ENFORCE)
    assert [f"{one['service']}/{one['class']}" for one in found["turns_to_enforce"]] == turning
    assert world.asked == [turning]
    assert (found["refused"], found["unknown"]) == ([{"consumer": "psql"}], [{"consumer": "cron"}])


def test_a_preview_says_from_when_on_uses_are_known(world: World) -> None:
    assert world.preview(None, Mode.ENFORCE)["known_since"] is None
    world.since_ns = world.boot_ns
    assert world.preview(None, Mode.ENFORCE)["known_since"].endswith("Z")


def test_a_preview_names_who_serves_what_others_own(world: World) -> None:
    root = Process(pid=9, start_boot_ns=1, exe="/usr/sbin/nginx", uid=0, user="root", unit="session-1.scope")
    place = to_address("127.0.0.1")
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    world.strangers = [
        Stranger(DB, root, place, 5432, "listened", 3, now_ns),
        Stranger(DB, root, place, 22, "listens", 1, now_ns),  # failsafe
        Stranger(DB, root, place, 5432, "refused", 1, now_ns - 2 * HOUR_NS),
        Stranger(Target("web", PortClass.PUBLIC), root, place, 80, "listens", 1, now_ns),
    ]
    (one,) = world.preview("db", Mode.ENFORCE)["strangers"]
    assert (one["service"], one["port"], one["how"], one["times"]) == ("db", 5432, "listened", 3)
    assert (one["exe"], one["user"], one["unit"]) == ("/usr/sbin/nginx", "root", "session-1.scope")
    assert [row["port"] for row in world.preview(None, Mode.ENFORCE)["strangers"]] == [5432, 80]


@pytest.mark.parametrize(
    ("scope", "named"), [(None, ["db/internal", "web/public"]), ("web", ["web/public"]), ("db/admin", [])]
)
def test_a_preview_names_rights_that_end_of_what_turns_alone(
    world: World, scope: str | None, named: list[str]
) -> None:
    said = world.preview(scope, Mode.ENFORCE)["confined"]
    assert said == [f"policy.yaml:3: ends for {target} (say so)" for target in named]


def test_a_preview_leaves_out_what_a_narrower_override_observes(world: World) -> None:
    world.ask("db/internal", Mode.OBSERVE)
    world.preview(None, Mode.ENFORCE)
    assert world.asked == [["web/public"]]


def test_a_reset_previews_what_the_policy_would_refuse(world: World) -> None:
    world.ask(None, Mode.OBSERVE)
    found = world.preview(None, None)
    assert found["turns_to_enforce"] == [{"service": "db", "class": "admin"}]
    assert world.asked == [["db/admin"]]
    assert world.preview(None, Mode.OBSERVE)["turns_to_enforce"] == []


def test_a_preview_changes_nothing(world: World) -> None:
    world.preview(None, Mode.ENFORCE)
    assert (world.map.rows, world.gates.asked, world.events) == ({}, [], [])


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.OBSERVE, None])
def test_an_unknown_service_is_refused_before_anything_is_attached(world: World, mode: Mode | None) -> None:
    for ask in (world.ask, world.preview):
        with pytest.raises(ModeError, match="did you mean 'web'"):
            ask("wbe", mode)
    assert world.gates.asked == []


def test_nothing_can_be_enforced_without_a_policy(world: World) -> None:
    world.policy = None
    with pytest.raises(ModeError, match="no policy"):
        world.ask(None, Mode.ENFORCE)
    assert world.gates.asked == []
    world.ask(None, Mode.OBSERVE)
    assert world.switch.listed()["targets"] == []


def test_gates_are_wanted_while_an_override_hides_what_will_enforce_again(world: World) -> None:
    assert world.modes.needs_gates()
    world.ask(None, Mode.OBSERVE, 600)
    assert world.modes.needs_gates()
    world.ask(None, Mode.OBSERVE)
    assert not world.modes.needs_gates()
