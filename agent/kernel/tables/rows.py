"""Decodes rows of the kernel's maps into model values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol as Interface

from agent import abi
from agent.kernel.tables.columns import columns
from agent.kernel.tables.names import Names
from agent.model import Address, Decision, Flow, Origin, Process, Protocol, Reason, Verdict
from agent.system.bpf_map import Map


def process_of(raw: abi.Identity, names: Names) -> Process | None:
    """None: the process is remote or not known."""
    if not raw.pid:
        return None
    return Process(
        pid=raw.pid,
        start_boot_ns=raw.start_ns,
        exe=names.of_process(raw.exe, raw.pid),
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
    """One row of `uses`: consumers of a target that are judged alike."""

    key: bytes
    attempts: int
    verdict: Verdict
    origin: Origin
    protocol: Protocol
    consumer: Process | None
    """The process of the first attempt; None: remote."""
    comm: str
    netns: int
    """The network namespace of the consumer's socket; of the server's socket if the consumer is remote."""
    source: Address
    source_port: int
    destination: Address
    port: int
    first_boot_ns: int
    last_boot_ns: int
    told: bool
    """True if the event of the first attempt was sent to the ring."""
    use_of: abi.UseOf = abi.UseOf.ONE
    """If it is not UseOf.ONE, the row stands for many consumers. `consumer` and `source` are the first of
    them."""
    share: int = 0
    """The index in use_counts that counts this row, beside the index of its side."""

    @property
    def is_of_one(self) -> bool:
        """True if the row stands for one consumer, or if only one has come yet."""
        return self.use_of is abi.UseOf.ONE or self.attempts == 1


def use_of(key: bytes, value: bytes, names: Names) -> Use:
    """Decode a row of `uses`."""
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
        comm=raw.comm.decode("utf-8", "surrogateescape"),
        netns=raw.first.netns,
        source=raw.source.value(),
        source_port=raw.source_port,
        destination=raw.destination.value(),
        port=raw.port,
        first_boot_ns=raw.first_ns,
        last_boot_ns=raw.last_ns,
        told=bool(raw.told),
        use_of=abi.UseOf(raw_key.use_of),
        share=raw.share,
    )


def use_from_event(event: abi.UseEvent, consumer: Process | None) -> Use:
    """The same, from the event of a first attempt."""
    return Use(
        key=bytes(event.key),
        attempts=1,
        verdict=verdict_of(event.verdict),
        origin=Origin(event.key.origin),
        protocol=Protocol(event.key.protocol),
        consumer=consumer,
        comm=event.comm.decode("utf-8", "surrogateescape"),
        netns=event.consumer.netns,
        source=event.source.value(),
        source_port=event.source_port,
        destination=event.destination.value(),
        port=event.port,
        first_boot_ns=event.header.time_ns,
        last_boot_ns=event.header.time_ns,
        told=True,
        use_of=abi.UseOf(event.key.use_of),
    )


class Processes(Interface):
    """Who the processes of a flow's row are. None: the process is remote or not known."""

    def process(self, identity: bytes) -> Process | None: ...

    def acceptor(self, pid: int, start_boot_ns: int, exe: int) -> Process | None: ...


@dataclass(frozen=True, slots=True)
class ProcessesAsStored:
    """Processes with what the row has of them."""

    names: Names

    def process(self, identity: bytes) -> Process | None:
        return process_of(abi.Identity.from_buffer_copy(identity), self.names)

    def acceptor(self, pid: int, start_boot_ns: int, exe: int) -> Process | None:
        if not pid:
            return None
        return Process(pid=pid, start_boot_ns=start_boot_ns, exe=self.names.of_process(exe, pid))


_FLOW = columns(
    abi.Flow,
    *("opened_ns", "consumer", "owner", "acceptor_start_ns", "acceptor_exe", "acceptor_pid", "state"),
    *("pre_existing", "verdict", "local", "remote", "local_port", "remote_port"),
)
_NETNS = abi.Identity.netns.offset


def flow_of(cookie: int, row: bytes | abi.Flow, processes: Processes) -> Flow:
    """Decode a row of `flows`. Its addresses are those of the socket with this cookie: the consumer's socket,
    or the server's if the consumer is remote."""
    opened_ns, consumer, owner, *accepted, state, pre_existing, word, local, remote, port, remote_port = (
        _FLOW.unpack(row)
    )
    accepted_ns, accepted_exe, accepted_pid = accepted
    verdict, origin, protocol = _verdict_in(word)
    here, there = (Address(local), port), (Address(remote), remote_port)
    consumer_end, server_end = (there, here) if origin is Origin.REMOTE else (here, there)
    return Flow(
        cookie=cookie,
        target=verdict.target,
        consumer=processes.process(consumer),
        consumer_address=consumer_end[0],
        consumer_port=consumer_end[1],
        address=server_end[0],
        port=server_end[1],
        owner=processes.process(owner),
        acceptor=processes.acceptor(accepted_pid, accepted_ns, accepted_exe),
        verdict=verdict,
        origin=origin,
        protocol=protocol,
        opened_boot_ns=opened_ns,
        established=state == abi.FlowState.OPEN,
        pre_existing=bool(pre_existing),
        netns=abi.U64.unpack_from(consumer, _NETNS)[0],
    )


@lru_cache(maxsize=1024)  # thousands of flows have a few verdicts
def _verdict_in(row: bytes) -> tuple[Verdict, Origin, Protocol]:
    raw = abi.Verdict.from_buffer_copy(row)
    return verdict_of(raw), Origin(raw.origin), Protocol(raw.protocol)


def with_server(event: abi.FlowEvent, flows: Map) -> abi.FlowEvent:
    """Add the server's process. When a flow opens, its event may lack it; the row has it a moment later."""
    if not event.flow.owner.pid and (row := flows.get(abi.U64.pack(event.cookie))):
        event.flow = abi.Flow.from_buffer_copy(row)
    return event


def flow_rows(flows: Map) -> Iterator[tuple[int, bytes]]:
    """(cookie, abi.Flow) of each flow. The spare rows, one for each CPU, are skipped."""
    for key, value in flows.items():
        if not abi.is_spare_flow(key):
            yield abi.U64.unpack(key)[0], value
