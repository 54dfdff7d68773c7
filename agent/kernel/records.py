"""Rows of the kernel's maps as model values. Names of executables come from the pinned `names` map."""

from __future__ import annotations

import ctypes as ct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.kernel import abi, ring
from agent.kernel.libbpf import Map
from agent.model import Address, Decision, Flow, Origin, Process, Protocol, Reason, Verdict
from agent.policy.hashing import UNTRUSTED_NAME, path_hash


class Names:
    """Paths of executables by the kernel's hash; what is learned is stored in the pinned map, so that the
    kernel does not tell it again and a restarted daemon still knows it."""

    def __init__(self, stored: Map, seed: int, proc_exe: Callable[[int], str]) -> None:
        self._stored = stored
        self._seed = seed
        self._proc_exe = proc_exe
        self._known: dict[int, str] = {}

    def __getitem__(self, exe: int) -> str:
        """ "": none, or not known yet."""
        if exe not in self._known:
            raw = self._stored.get(abi.U64.pack(exe))
            if raw:
                name = abi.StoredName.from_buffer_copy(raw)
                if name.bytes:
                    path = bytes(name.text[: name.bytes]).decode("utf-8", "surrogateescape")
                    cut = self._differs(path, exe) and not path.endswith("…")
                    self._known[exe] = path + "…" if cut else path
        return self._known.get(exe, "")

    def learn(self, event: abi.NameEvent) -> str:
        """Stores the path of a name event; where a component was cut, the one in /proc, if it still is
        that process's."""
        path = ring.path_of(event)
        if self._differs(path, event.exe):
            live = self._proc_exe(event.pid)
            path = live if live and not self._differs(live, event.exe) else path + "…"
        self._store(event.exe, path)
        return path

    def note(self, path: str) -> int:
        """The kernel's hash of a path that user space has read itself; 0 for none."""
        if not path:
            return 0
        exe = path_hash(path, self._seed)
        if self[exe] != path:
            self._store(exe, path)
        return exe

    def _store(self, exe: int, path: str) -> None:
        self._known[exe] = path
        text = path.encode("utf-8", "surrogateescape")[: abi.EXE_NAME_BYTES]
        name = abi.StoredName(bytes=len(text))
        ct.memmove(name.text, text, len(text))
        self._stored.put(abi.U64.pack(exe), bytes(name))

    def _differs(self, path: str, exe: int) -> bool:
        return path_hash(path, self._seed) != exe & ~UNTRUSTED_NAME

    def trusted_paths(self) -> frozenset[str]:
        """Every path stored so far, but those seen in an untrusted mount namespace."""
        for key in self._stored:
            self[abi.U64.unpack(key)[0]]
        return frozenset(
            path for exe, path in self._known.items() if not exe & UNTRUSTED_NAME and not path.endswith("…")
        )


def process_of(raw: abi.Identity, names: Names) -> Process | None:
    """None: there is no process here (a remote end, or not known)."""
    if not raw.pid:
        return None
    return Process(
        pid=raw.pid,
        start_boot_ns=raw.start_ns,
        exe=names[raw.exe],
        exe_untrusted=bool(raw.exe & abi.EXE_UNTRUSTED),
        uid=raw.uid,
        gid=raw.gid,
        gids=(raw.gid,),
        cgroup_id=raw.cgroup,
        netns=raw.netns,
    )


def verdict_of(raw: abi.Verdict) -> Verdict:
    return Verdict(Decision(raw.decision), Reason(raw.reason), raw.target, raw.grant, bool(raw.enforced))


@dataclass(frozen=True, slots=True)
class Use:
    """Who uses what: one row for each consumer of a target that is judged alike."""

    key: bytes
    attempts: int
    verdict: Verdict
    origin: Origin
    protocol: Protocol
    consumer: Process | None
    """As of the first attempt; None: remote."""
    comm: str
    source: Address
    source_port: int
    destination: Address
    port: int
    first_boot_ns: int
    last_boot_ns: int
    told: bool


def use_of(key: bytes, value: bytes, names: Names) -> Use:
    raw_key, raw = abi.UseKey.from_buffer_copy(key), abi.Use.from_buffer_copy(value)
    return Use(
        key=key,
        attempts=raw.attempts,
        verdict=Verdict(
            Decision(raw_key.decision),
            Reason(raw_key.reason),
            raw_key.target,
            raw.verdict.grant,
            bool(raw_key.enforced),
        ),
        origin=Origin(raw_key.origin),
        protocol=Protocol(raw_key.protocol),
        consumer=process_of(raw.first, names),
        comm=raw.comm.decode("utf-8", "replace"),
        source=raw.source.value(),
        source_port=raw.source_port,
        destination=raw.destination.value(),
        port=raw.port,
        first_boot_ns=raw.first_ns,
        last_boot_ns=raw.last_ns,
        told=bool(raw.told),
    )


def flow_of(cookie: int, raw: abi.Flow, names: Names) -> Flow:
    """The row's addresses are those of the socket that is the key: the consumer's, or the server's of a
    remote one."""
    local, remote = raw.local.value(), raw.remote.value()
    here, there = (local, raw.local_port), (remote, raw.remote_port)
    origin = Origin(raw.verdict.origin)
    consumer_end, server_end = (there, here) if origin is Origin.REMOTE else (here, there)
    acceptor = None
    if raw.acceptor_pid:
        acceptor = Process(
            pid=raw.acceptor_pid, start_boot_ns=raw.acceptor_start_ns, exe=names[raw.acceptor_exe]
        )
    return Flow(
        cookie=cookie,
        target=raw.verdict.target,
        consumer=process_of(raw.consumer, names),
        consumer_address=consumer_end[0],
        consumer_port=consumer_end[1],
        address=server_end[0],
        port=server_end[1],
        owner=process_of(raw.owner, names),
        acceptor=acceptor,
        verdict=verdict_of(raw.verdict),
        origin=origin,
        protocol=Protocol(raw.verdict.protocol),
        opened_boot_ns=raw.opened_ns,
        established=raw.state == abi.FlowState.OPEN,
        pre_existing=bool(raw.pre_existing),
        netns=raw.consumer.netns,
    )


def flow_rows(flows: Map) -> Iterator[tuple[int, bytes]]:
    """(cookie, abi.Flow) of each; the spare rows, one for each CPU, are none."""
    for key, value in flows.items():
        cookie: int = abi.U64.unpack(key)[0]
        if cookie < abi.SPARE_FLOW:
            yield cookie, value


def flows_in(flows: Map, names: Names) -> Iterator[Flow]:
    for cookie, value in flow_rows(flows):
        yield flow_of(cookie, abi.Flow.from_buffer_copy(value), names)
