from __future__ import annotations

import errno
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import abi
from agent.enforce.mode_overrides import Overrides
from agent.errors import KernelError, ModeError
from agent.model import Mode, PortClass, Target
from agent.policy.tables.ids import Ids
from tests.unit.kernel.memory_map import MemoryMap

DB = Target("db", PortClass.INTERNAL)
DB_ADMIN = Target("db", PortClass.ADMIN)
WEB = Target("web", PortClass.PUBLIC)
IDS = {DB: 1, DB_ADMIN: 2, WEB: 7}
SECOND_NS = 10**9
NEVER = abi.NEVER_NS


SCOPES = (None, "db", "web", "db/internal", "db/admin", "web/public")


@dataclass
class Host:
    """A kernel, a state directory and two clocks."""

    folder: Path
    map: MemoryMap = field(default_factory=lambda: MemoryMap("modes", max_entries=abi.MAX_TARGETS + 1))
    targets: list[Target] = field(default_factory=lambda: list(IDS))
    ids: Ids = field(default_factory=lambda: Ids(dict(IDS)))
    boot_ns: int = 1000 * SECOND_NS
    unix_s: float = 1_800_000_000.0

    @property
    def path(self) -> Path:
        return self.folder / "modes.json"

    def targets_in_force(self) -> list[Target]:
        return self.targets

    def start(self) -> Overrides:
        """A daemon that starts now."""
        overrides = Overrides(
            self.map,
            self,
            self.path,
            boot_ns=lambda: self.boot_ns,
            unix_s=lambda: self.unix_s,
        )
        overrides.restore()
        return overrides

    def passes(self, seconds: float) -> None:
        self.boot_ns += int(seconds * SECOND_NS)
        self.unix_s += seconds

    def reboots(self, down_s: float) -> None:
        self.map.rows.clear()
        self.boot_ns = 20 * SECOND_NS
        self.unix_s += down_s

    def kernel(self) -> dict[int, tuple[str, int]]:
        """What the map says that is not nothing: (override, until_ns) by index."""
        found = {}
        for key, value in self.map.items():
            raw = abi.RawMode.from_buffer_copy(value)
            if raw.override:
                found[abi.U32.unpack(key)[0]] = (abi.Override(raw.override).name, raw.until_ns)
        return found

    def kernel_mode(self, target: Target, policy_mode: Mode) -> Mode:
        """enforces() of bpf/lib/enforce.h, on the map as it is."""
        for index in (IDS[target], 0):
            value = self.map.get(abi.U32.pack(index))
            raw = abi.RawMode.from_buffer_copy(value or bytes(16))
            if self.boot_ns < raw.until_ns and raw.override:
                return Mode.ENFORCE if raw.override == abi.Override.ENFORCE else Mode.OBSERVE
        return policy_mode

    def stored(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(self.path.read_text())["overrides"]
        return rows


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def set_(overrides: Overrides, scope: str | None, mode: Mode, for_s: float | None = None) -> None:
    overrides.set(scope, mode, for_s, uid=1000, pid=42)


def test_a_mode_reaches_the_kernel_as_the_programs_read_it(host: Host) -> None:
    overrides = host.start()
    set_(overrides, None, Mode.OBSERVE)
    set_(overrides, "db/admin", Mode.ENFORCE, 600)
    assert host.kernel() == {0: ("OBSERVE", NEVER), 2: ("ENFORCE", 1600 * SECOND_NS)}


def test_a_service_stands_for_all_of_its_classes_and_replaces_theirs(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "db/admin", Mode.OBSERVE)
    change = overrides.set("db", Mode.ENFORCE, None, uid=0, pid=1)
    assert host.kernel() == {1: ("ENFORCE", NEVER), 2: ("ENFORCE", NEVER)}
    assert [(one.scope, one.mode) for one in change.previous] == [("db/admin", Mode.OBSERVE)]
    assert change.narrower == ()


def test_the_host_leaves_single_targets_as_they_are_and_says_so(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "db", Mode.ENFORCE)
    change = overrides.set(None, Mode.OBSERVE, None, uid=0, pid=1)
    assert [one.scope for one in change.narrower] == ["db/internal", "db/admin"]
    assert overrides.effective(DB, Mode.OBSERVE).mode is Mode.ENFORCE
    assert overrides.effective(WEB, Mode.ENFORCE).mode is Mode.OBSERVE


def test_the_narrowest_override_goes_first_then_the_host_then_the_policy(host: Host) -> None:
    overrides = host.start()
    assert overrides.effective(DB, Mode.ENFORCE).source == "policy"
    set_(overrides, None, Mode.OBSERVE, 100)
    assert (overrides.effective(DB, Mode.ENFORCE).mode, overrides.effective(DB, Mode.ENFORCE).source) == (
        Mode.OBSERVE,
        "host override",
    )
    set_(overrides, "db", Mode.ENFORCE, 10)
    assert overrides.effective(DB, Mode.OBSERVE).source == "override"
    host.passes(10)
    assert overrides.effective(DB, Mode.ENFORCE).source == "host override"
    host.passes(90)
    assert overrides.effective(DB, Mode.ENFORCE) == overrides.effective(WEB, Mode.ENFORCE)
    assert overrides.effective(DB, Mode.ENFORCE).source == "policy"


def test_a_reset_takes_away_only_its_scope(host: Host) -> None:
    overrides = host.start()
    set_(overrides, None, Mode.ENFORCE)
    set_(overrides, "db", Mode.OBSERVE)
    change = overrides.reset("db/admin")
    assert [one.scope for one in change.previous] == ["db/admin"]
    assert host.kernel() == {0: ("ENFORCE", NEVER), 1: ("OBSERVE", NEVER)}
    assert [one.scope for one in overrides.reset(None).narrower] == ["db/internal"]
    assert host.kernel() == {1: ("OBSERVE", NEVER)}
    overrides.reset("db")
    assert host.kernel() == {}
    assert host.stored() == []


def test_what_is_listed_says_who_set_it_and_how_long_it_lasts(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "db/admin", Mode.ENFORCE, 600)
    set_(overrides, None, Mode.OBSERVE)
    host.passes(60)
    first, second = overrides.listed()
    assert (first.scope, overrides.seconds_left(first)) == (None, None)
    assert (second.scope, overrides.seconds_left(second)) == ("db/admin", 540.0)
    assert (second.uid, second.pid, second.since_unix_s) == (1000, 42, 1_800_000_000.0)


def test_an_override_survives_a_restart_with_its_exact_deadline(host: Host) -> None:
    set_(host.start(), "db", Mode.ENFORCE, 600)
    before = host.kernel()
    host.passes(60)
    host.unix_s -= 3600  # somebody set the clock back: the kernel's deadline does not move
    again = host.start()
    assert again.seconds_left(again.listed()[0]) == 540.0
    assert host.kernel() == before


def test_an_override_survives_a_reboot_for_what_is_left_of_it(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "db/admin", Mode.ENFORCE, 600)
    set_(overrides, "web", Mode.OBSERVE)
    host.reboots(down_s=100)
    host.start()
    assert host.kernel() == {2: ("ENFORCE", 520 * SECOND_NS), 7: ("OBSERVE", NEVER)}


def test_what_ended_while_nothing_ran_does_not_come_back(host: Host) -> None:
    set_(host.start(), None, Mode.ENFORCE, 60)
    host.reboots(down_s=61)
    overrides = host.start()
    assert host.kernel() == {}
    assert overrides.listed() == []
    assert [one.mode for one in overrides.take_ended()] == [Mode.ENFORCE]
    assert overrides.take_ended() == ()
    assert host.stored() == []


def test_what_the_file_does_not_say_is_cleared_in_the_kernel_at_the_start(host: Host) -> None:
    host.map.put(abi.U32.pack(7), bytes(abi.RawMode(until_ns=NEVER, override=abi.Override.ENFORCE)))
    host.start()
    assert host.kernel() == {}


def test_a_target_that_leaves_the_policy_is_kept_in_the_file_until_it_returns(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "db/admin", Mode.ENFORCE, 600)
    host.targets.remove(DB_ADMIN)
    overrides.restore()
    assert host.kernel() == {}
    assert [row["target"] for row in host.stored()] == ["db/admin"]
    assert [one.scope for one in overrides.listed()] == ["db/admin"]
    again = host.start()
    host.targets.append(DB_ADMIN)
    again.restore()
    assert host.kernel() == {2: ("ENFORCE", 1600 * SECOND_NS)}


def test_the_override_of_a_target_that_is_gone_can_be_taken_away(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "web", Mode.ENFORCE)
    host.targets.remove(WEB)
    assert [one.scope for one in overrides.reset("web").previous] == ["web/public"]
    with pytest.raises(ModeError, match="no service 'web'"):
        overrides.set("web", Mode.OBSERVE, None, uid=0, pid=1)


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("dbb", "no service 'dbb'; did you mean 'db'?"),
        ("zzz", "no service 'zzz'; services are db, web"),
        ("db/c", "service 'db' has no such class; there is db/internal, db/admin"),
        ("db/intern", "service 'db' has no such class; did you mean 'db/internal'?"),
        ("db/", "no such class"),
        ("", "no service ''"),
        ("/internal", "no service ''"),
    ],
)
def test_a_target_there_is_not_is_refused_with_a_remedy(host: Host, scope: str, message: str) -> None:
    overrides = host.start()
    for attempt in (
        lambda: overrides.set(scope, Mode.ENFORCE, None, uid=0, pid=1),
        lambda: overrides.reset(scope),
        lambda: overrides.check(scope, Mode.OBSERVE),
    ):
        with pytest.raises(ModeError) as refused:
            attempt()
        assert message in str(refused.value)
    assert not host.path.exists()


def test_what_would_hold_is_known_before_it_is_set(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "db/admin", Mode.OBSERVE)
    assert overrides.foresee(None, Mode.ENFORCE)(DB, Mode.OBSERVE).mode is Mode.ENFORCE
    assert overrides.foresee(None, Mode.ENFORCE)(DB_ADMIN, Mode.OBSERVE).mode is Mode.OBSERVE
    assert overrides.foresee("db", None)(DB_ADMIN, Mode.ENFORCE).mode is Mode.ENFORCE
    assert host.kernel() == {2: ("OBSERVE", NEVER)}


def test_gates_stay_for_what_will_enforce_again_while_no_daemon_runs(host: Host) -> None:
    overrides = host.start()
    set_(overrides, None, Mode.OBSERVE, 600)
    assert overrides.enforces_without_help(DB, Mode.ENFORCE)
    assert not overrides.enforces_without_help(DB, Mode.OBSERVE)
    set_(overrides, None, Mode.OBSERVE)
    assert not overrides.enforces_without_help(DB, Mode.ENFORCE)
    set_(overrides, "db", Mode.ENFORCE, 10)
    assert overrides.enforces_without_help(DB, Mode.OBSERVE)


def cannot_be_written(path: Path) -> None:
    """By root either."""
    path.unlink(missing_ok=True)
    path.mkdir()


def test_what_cannot_be_kept_does_not_begin_to_refuse(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "web", Mode.OBSERVE)
    cannot_be_written(host.path)
    with pytest.raises(KernelError, match=r"modes\.json: cannot be written"):
        set_(overrides, "db", Mode.ENFORCE)
    assert host.kernel() == {7: ("OBSERVE", NEVER)}
    assert [one.scope for one in overrides.listed()] == ["web/public"]


@pytest.mark.parametrize("mode", [Mode.OBSERVE, None])
def test_what_cannot_be_kept_is_taken_back_in_the_kernel_and_said(host: Host, mode: Mode | None) -> None:
    overrides = host.start()
    set_(overrides, "db", Mode.ENFORCE)
    cannot_be_written(host.path)
    change = overrides.set("db", mode, None, uid=0, pid=1) if mode else overrides.reset("db")
    assert all(value[0] != "ENFORCE" for value in host.kernel().values())
    assert overrides.effective(DB, Mode.OBSERVE).mode is Mode.OBSERVE
    assert "a restart may lose the last change" in change.problem
    assert overrides.problem == change.problem
    overrides.retry()
    assert overrides.problem
    host.path.rmdir()
    overrides.retry()
    assert overrides.problem == ""
    assert host.start().effective(DB, Mode.OBSERVE).mode is Mode.OBSERVE


def test_an_end_that_cannot_be_kept_is_told_once_and_kept_later(host: Host) -> None:
    overrides = host.start()
    set_(overrides, "db", Mode.ENFORCE, 10)
    cannot_be_written(host.path)
    host.passes(20)
    assert {one.scope for one in overrides.take_ended()} == {"db/internal", "db/admin"}
    assert overrides.take_ended() == ()
    assert overrides.problem


def test_a_file_that_is_none_is_not_waited_for(host: Host) -> None:
    os.mkfifo(host.path)
    said = r"modes\.json: cannot be read: it is a FIFO, and a file is expected; move it away \(mv "
    with pytest.raises(KernelError, match=said):
        host.start()


def test_a_map_that_refuses_leaves_all_as_it_was(host: Host) -> None:
    class Refusing(MemoryMap):
        def put(self, key: bytes, value: bytes, flags: int = 0) -> None:
            if key == abi.U32.pack(2) and any(value):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            super().put(key, value, flags)

    host.map = Refusing("modes", max_entries=abi.MAX_TARGETS + 1)
    overrides = host.start()
    with pytest.raises(KernelError, match="could not be written to the kernel"):
        set_(overrides, "db", Mode.ENFORCE)
    assert host.kernel() == {}
    assert host.stored() == []
    assert overrides.listed() == []


@pytest.mark.parametrize(
    "text", ["", "[]", 9000 * "[", "{}", '{"overrides": [{"mode": "enforce"}]}', '{"overrides": 7}', "\x00"]
)
def test_a_damaged_file_is_named_and_changes_nothing(host: Host, text: str) -> None:
    host.path.write_text(text)
    with pytest.raises(KernelError, match=r"modes\.json: damaged .* move it away"):
        host.start()
    assert host.path.read_text() == text


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("set"),
            st.sampled_from(SCOPES),
            st.sampled_from(Mode),
            st.none() | st.sampled_from([5, 50, 500]),
        ),
        st.tuples(st.just("reset"), st.sampled_from(SCOPES)),
        st.tuples(st.just("passes"), st.sampled_from([1, 7, 60, 600])),
        st.sampled_from([("restart",), ("reboot",), ("take_ended",)]),
    ),
    max_size=12,
)


@given(steps=STEPS)
def test_what_we_say_holds_is_what_the_kernel_goes_by(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        overrides = host.start()
        for step, *given_ in steps:
            if step == "set":
                set_(overrides, *given_)
            elif step == "reset":
                overrides.reset(*given_)
            elif step == "passes":
                host.passes(*given_)
            elif step == "take_ended":
                overrides.take_ended()
            else:
                if step == "reboot":
                    host.reboots(down_s=3)
                overrides = host.start()
            for target in IDS:
                for policy_mode in Mode:
                    said = overrides.effective(target, policy_mode).mode
                    assert said is host.kernel_mode(target, policy_mode)
