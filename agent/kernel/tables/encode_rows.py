"""Encodes model values as rows of the kernel's maps: processes, and flows that the agent has found."""

from __future__ import annotations

from collections.abc import Callable

from agent import abi
from agent.model import Address, Flow, Origin, Process
from agent.policy.terms.networks import is_per_namespace

End = tuple[Address, int]


def encode_identity(process: Process | None, exe_hash: Callable[[str], int], netns: int = 0) -> abi.Identity:
    if process is None:
        return abi.Identity(netns=netns)
    return abi.Identity(
        start_ns=process.start_boot_ns,
        exe=exe_hash(process.exe),
        cgroup=process.cgroup_id,
        netns=netns or process.netns,
        pid=process.pid,
        uid=process.uid or 0,
        gid=process.gid or 0,
    )


def tuple_key(flow: Flow) -> bytes:
    """The key under which the passive side looks up this flow in the kernel."""
    return abi.TUPLE.pack(
        flow.netns if is_per_namespace(flow.address) else 0,
        flow.consumer_address.packed,
        flow.address.packed,
        flow.consumer_port,
        flow.port,
        0,
    )


def encode_flow(flow: Flow, exe_hash: Callable[[str], int]) -> abi.Flow:
    """Encode a flow as a row of `flows`."""
    here, there = ends_of(flow)
    verdict = flow.verdict
    return abi.Flow(
        opened_ns=flow.opened_boot_ns,
        consumer=encode_identity(flow.consumer, exe_hash, flow.netns),
        owner=encode_identity(flow.owner, exe_hash),
        acceptor_pid=flow.acceptor.pid if flow.acceptor else 0,
        acceptor_start_ns=flow.acceptor.start_boot_ns if flow.acceptor else 0,
        acceptor_exe=exe_hash(flow.acceptor.exe) if flow.acceptor else 0,
        state=abi.FlowState.OPEN,
        pre_existing=True,
        verdict=abi.Verdict(
            target=verdict.target,
            grant=verdict.grant,
            decision=verdict.decision,
            reason=verdict.reason,
            origin=flow.origin,
            protocol=flow.protocol,
        ),
        local=abi.RawAddress.of(here[0]),
        local_port=here[1],
        remote=abi.RawAddress.of(there[0]),
        remote_port=there[1],
    )


def ends_of(flow: Flow) -> tuple[End, End]:
    """(local, remote) of the socket whose cookie the flow has: the consumer's, or the server's if the
    consumer is remote."""
    consumer, server = (flow.consumer_address, flow.consumer_port), (flow.address, flow.port)
    return (server, consumer) if flow.origin is Origin.REMOTE else (consumer, server)
