from __future__ import annotations

import ctypes as ct
import threading

import pytest

from agent import abi
from agent.kernel.tables.hash_of_abi_1 import path_hash_of_abi_1
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import ProcessesAsStored, flow_of, flow_rows, process_of, use_of
from agent.model import Address, Decision, Origin, Process, Protocol, Reason, Verdict, to_address
from agent.policy.terms.hashing import UNTRUSTED_NAME, path_hash
from tests.unit.kernel.memory_map import MemoryMap
from tests.unit.kernel.tables.test_ring import name_event

SEED = 0x1234
HERE, THERE = to_address("10.0.0.1"), to_address("10.0.0.2")


def hashed(path: str) -> int:
    return path_hash(path, SEED)


class ProcExe:
    """/proc/PID/exe of processes that a test knows."""

    def __init__(self, **paths: str) -> None:
        self.paths = {int(pid.removeprefix("pid")): path for pid, path in paths.items()}

    def __call__(self, pid: int) -> str:
        return self.paths.get(pid, "")


@pytest.fixture
def stored() -> MemoryMap:
    return MemoryMap("names")


def names_of(stored: MemoryMap, proc_exe: ProcExe | None = None) -> Names:
    return Names(stored, SEED, proc_exe or ProcExe())  # type: ignore[arg-type]


@pytest.fixture
def names(stored: MemoryMap) -> Names:
    return names_of(stored)


def test_an_executable_nobody_named_is_an_empty_string(names: Names) -> None:
    assert names[hashed("/usr/bin/psql")] == ""
    assert names[0] == ""


def test_a_learned_name_is_known_to_the_next_daemon(stored: MemoryMap, names: Names) -> None:
    exe = hashed("/usr/bin/psql")
    assert names.learn(name_event(b"psql", b"bin", b"usr", exe=exe)) == "/usr/bin/psql"
    assert names_of(stored)[exe] == "/usr/bin/psql"


def test_a_name_that_0_1_0_has_stored_is_whole(stored: MemoryMap) -> None:
    exe, path = path_hash_of_abi_1("/usr/bin/psql", SEED), b"/usr/bin/psql"
    stored.put(abi.U64.pack(exe), bytes(abi.StoredName(len(path), (ct.c_uint8 * abi.EXE_NAME_BYTES)(*path))))
    assert names_of(stored)[exe] == "/usr/bin/psql"


def test_a_name_that_comes_later_is_found_after_a_miss(names: Names) -> None:
    exe = hashed("/usr/bin/psql")
    assert names[exe] == ""
    names.learn(name_event(b"psql", b"bin", b"usr", exe=exe))
    assert names[exe] == "/usr/bin/psql"


def test_a_component_that_was_cut_is_completed_from_proc(stored: MemoryMap) -> None:
    whole = "/opt/" + "x" * 200
    names = names_of(stored, ProcExe(pid5=whole))
    event = name_event(b"x" * 95, b"opt", exe=hashed(whole))
    event.pid = 5
    assert names.learn(event) == whole


def test_a_path_deeper_than_the_walk_does_not_begin_where_that_ended(stored: MemoryMap) -> None:
    parts = [f"d{depth}".encode() for depth in range(24)]
    exe = hashed("another one's, higher up") | UNTRUSTED_NAME
    shown = "…/" + "/".join(part.decode() for part in reversed(parts))
    assert names_of(stored).learn(name_event(*parts, exe=exe)) == shown
    assert names_of(stored)[exe] == shown
    assert names_of(stored).trusted_paths() == frozenset()


def test_a_path_as_deep_as_the_walk_is_whole(names: Names) -> None:
    parts = [f"d{depth}".encode() for depth in range(24)]
    whole = "/" + "/".join(part.decode() for part in reversed(parts))
    assert names.learn(name_event(*parts, exe=hashed(whole))) == whole


def test_a_program_in_memory_has_no_path(stored: MemoryMap) -> None:
    exe = hashed("/") | UNTRUSTED_NAME
    assert names_of(stored).learn(name_event(exe=exe)) == "memfd:"
    assert names_of(stored)[exe] == "memfd:"


def test_a_pid_that_was_reused_does_not_lend_its_name(stored: MemoryMap) -> None:
    names = names_of(stored, ProcExe(pid5="/usr/bin/other"))
    event = name_event(b"x" * 95, b"opt", exe=hashed("/opt/" + "x" * 200))
    event.pid = 5
    assert names.learn(event) == "/opt/" + "x" * 95 + "…"


def test_a_name_that_was_lost_is_the_one_in_proc_while_it_is_the_same_program(stored: MemoryMap) -> None:
    names = names_of(stored, ProcExe(pid5="/usr/bin/psql", pid6="/usr/bin/sleep"))
    exe = hashed("/usr/bin/psql")
    named = [process_of(abi.Identity(pid=pid, exe=exe), names) for pid in (7, 6, 5, 6)]
    assert [one.exe for one in named if one] == ["", "", "/usr/bin/psql", "/usr/bin/psql"]
    assert names[exe] == "/usr/bin/psql"
    none = process_of(abi.Identity(pid=6, exe=abi.EXE_UNTRUSTED), names)
    assert none is not None
    assert none.exe == ""


def test_a_name_of_an_untrusted_mount_namespace_is_shown_and_not_trusted(names: Names) -> None:
    exe = hashed("/usr/bin/psql") | UNTRUSTED_NAME
    names.learn(name_event(b"psql", b"bin", b"usr", exe=exe))
    names.note("/usr/bin/curl")
    assert names[exe] == "/usr/bin/psql"
    assert names.trusted_paths() == frozenset({"/usr/bin/curl"})


def test_trusted_paths_include_those_of_an_earlier_daemon_but_no_cut_ones(stored: MemoryMap) -> None:
    earlier = names_of(stored)
    earlier.note("/usr/bin/psql")
    earlier.learn(name_event(b"y" * 95, b"opt", exe=hashed("/opt/" + "y" * 200)))
    assert names_of(stored).trusted_paths() == frozenset({"/usr/bin/psql"})


def test_noting_a_path_gives_the_hash_the_kernel_knows_it_by(names: Names) -> None:
    assert names.note("/usr/bin/psql") == hashed("/usr/bin/psql")
    assert names[hashed("/usr/bin/psql")] == "/usr/bin/psql"
    assert names.note("") == 0


def test_a_path_too_long_to_be_stored_is_whole_here_and_marked_as_cut_for_the_next_daemon(
    stored: MemoryMap, names: Names
) -> None:
    path = "/opt/" + "/".join(["z" * 90] * 4)
    exe = names.note(path)
    assert names[exe] == path
    assert len(stored.rows[abi.U64.pack(exe)]) == ct.sizeof(abi.StoredName)
    again = names_of(stored)
    assert again[exe] == path[: abi.EXE_NAME_BYTES] + "…"
    assert again.trusted_paths() == frozenset(), "half a path must match no selector"
    again.note(path)
    assert again[exe] == path


def test_identity_without_a_pid_is_no_process(names: Names) -> None:
    assert process_of(abi.Identity(uid=1000, netns=4), names) is None


def test_identity_becomes_a_process(names: Names) -> None:
    exe = names.note("/usr/bin/psql")
    raw = abi.Identity(pid=5, start_ns=6, exe=exe, cgroup=7, netns=8, uid=0, gid=9)
    assert process_of(raw, names) == Process(
        pid=5,
        start_boot_ns=6,
        exe="/usr/bin/psql",
        uid=0,
        gid=9,
        gids=(9,),
        cgroup_id=7,
        netns=8,
    )


def raw_flow(origin: Origin, **fields: object) -> abi.Flow:
    return abi.Flow(
        opened_ns=11,
        verdict=abi.Verdict(
            target=3,
            grant=4,
            decision=Decision.DENIED,
            reason=Reason.EXPIRED,
            origin=origin,
            protocol=Protocol.TCP,
        ),
        local=abi.RawAddress.of(HERE),
        local_port=40000,
        remote=abi.RawAddress.of(THERE),
        remote_port=5432,
        **fields,
    )


@pytest.mark.parametrize("origin", [Origin.LOOPBACK, Origin.CONTAINER])
def test_a_local_consumers_row_is_keyed_by_its_own_socket(origin: Origin, names: Names) -> None:
    raw = raw_flow(origin, consumer=abi.Identity(pid=5, netns=8), state=abi.FlowState.OPEN)
    flow = flow_of(77, raw, ProcessesAsStored(names))
    assert (flow.consumer_address, flow.consumer_port) == (HERE, 40000)
    assert (flow.address, flow.port) == (THERE, 5432)
    assert flow.consumer is not None
    assert flow.consumer.pid == 5
    assert flow.verdict == Verdict(Decision.DENIED, Reason.EXPIRED, target=3, grant=4)
    assert (flow.cookie, flow.netns, flow.established, flow.opened_boot_ns) == (77, 8, True, 11)


def test_a_remote_consumers_row_is_keyed_by_the_servers_socket(names: Names) -> None:
    flow = flow_of(77, raw_flow(Origin.REMOTE, consumer=abi.Identity(netns=8)), ProcessesAsStored(names))
    assert (flow.consumer_address, flow.consumer_port) == (THERE, 5432)
    assert (flow.address, flow.port) == (HERE, 40000)
    assert flow.consumer is None
    assert flow.netns == 8


@pytest.mark.parametrize("state", [abi.FlowState.ATTEMPT, abi.FlowState.SYN])
def test_an_attempt_is_not_established(state: abi.FlowState, names: Names) -> None:
    assert not flow_of(1, raw_flow(Origin.LOOPBACK, state=state), ProcessesAsStored(names)).established


def test_the_acceptor_is_named_once_it_is_known(names: Names) -> None:
    exe = names.note("/usr/sbin/server")
    assert flow_of(1, raw_flow(Origin.REMOTE), ProcessesAsStored(names)).acceptor is None
    raw = raw_flow(Origin.REMOTE, acceptor_pid=9, acceptor_start_ns=10, acceptor_exe=exe)
    accepted = flow_of(1, raw, ProcessesAsStored(names)).acceptor
    assert accepted == Process(pid=9, start_boot_ns=10, exe="/usr/sbin/server")


def test_every_row_of_the_map_is_a_flow_but_the_spare_ones(names: Names) -> None:
    rows = MemoryMap("flows")
    for cookie in (abi.SPARE_FLOW, 5, 6, abi.SPARE_FLOW | 1):
        rows.put(abi.U64.pack(cookie), bytes(raw_flow(Origin.LOOPBACK)))
    assert [cookie for cookie, _ in flow_rows(rows)] == [5, 6]  # type: ignore[arg-type]


def test_a_row_of_usage_takes_its_verdict_from_the_key(names: Names) -> None:
    key = bytes(
        abi.UseKey(
            target=3,
            decision=Decision.DENIED,
            reason=Reason.EXCLUDED,
            origin=Origin.CONTAINER,
            protocol=Protocol.UDP,
        )
    )
    value = bytes(
        abi.Use(
            attempts=12,
            first_ns=1,
            last_ns=2,
            verdict=abi.Verdict(grant=8),
            first=abi.Identity(pid=5),
            source=abi.RawAddress.of(HERE),
            destination=abi.RawAddress.of(Address("fd00::1")),
            source_port=1000,
            port=53,
            comm=b"dig",
        )
    )
    use = use_of(key, value, names)
    assert use.verdict == Verdict(Decision.DENIED, Reason.EXCLUDED, target=3, grant=8)
    assert (use.attempts, use.origin, use.protocol, use.comm) == (12, Origin.CONTAINER, Protocol.UDP, "dig")
    assert (use.source, use.source_port) == (HERE, 1000)
    assert (use.destination, use.port) == (Address("fd00::1"), 53)
    assert not use.told


def test_a_path_for_each_run_does_not_grow_what_is_known(
    stored: MemoryMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.kernel.tables.names.KNOWN_BYTES", 10_000)
    names = names_of(stored)
    for number in range(1000):
        names.note(f"/tmp/{number}/{'x' * 200}")
    assert 0 < sum(len(path) + 200 for path in names._known.values()) <= 10_000
    assert names[hashed(f"/tmp/999/{'x' * 200}")] == f"/tmp/999/{'x' * 200}"
    assert names[hashed(f"/tmp/0/{'x' * 200}")] == f"/tmp/0/{'x' * 200}", "read again from the map"


def test_a_name_that_is_forgotten_is_not_known_to_the_kernel_either(stored: MemoryMap, names: Names) -> None:
    exe = names.note("/tmp/copy")
    names.forget(exe)
    assert (names[exe], stored.rows) == ("", {})
    names.forget(exe)
    assert names.note("/tmp/copy") == exe


def test_paths_can_be_listed_while_the_kernel_names_more() -> None:
    """The loop learns names while a thread looks at the host."""
    names = names_of(MemoryMap("names", max_entries=2000))

    def learn() -> None:
        for number in range(2000):
            names.note(f"/opt/{number}")

    thread = threading.Thread(target=learn)
    thread.start()
    while thread.is_alive():
        names.trusted_paths()
    assert len(names.trusted_paths()) == 2000
