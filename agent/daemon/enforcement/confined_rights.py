"""Rights that processes lose by running in a container: running and connected processes, judged for
`confined`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.tracking.consumers import local_consumer
from agent.daemon.tracking.usage import Usage
from agent.model import Process, Target
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.policy.decision.confined import Seen, rights_lost
from agent.policy.values import Finding


@dataclass(frozen=True, slots=True)
class Rights:
    """Finds processes that lost a right because they run in a container."""

    keeper: PolicyKeeper
    reader: ProcReader
    namespaces: Namespaces
    usage: Usage

    def lost(self, targets: Collection[Target] | None = None) -> list[Finding]:
        """Principals and owners that no longer match a process here because of where it runs. `targets`
        limits them; None is all."""
        policy, compiled, facts = self.keeper.policy, self.keeper.compiled, self.keeper.facts
        if policy is None or compiled is None or facts is None or not compiled.index.confined:
            return []
        cookies = {one.inode: one.cookie for one in (self.namespaces.own(), *self.namespaces.all())}
        seen = (*running_inside(self.reader, cookies), *_inside(self.usage.consumers()))
        return rights_lost(policy, compiled, facts.host_netns, seen, targets)


def running_inside(reader: ProcReader, cookies: dict[int, int]) -> Iterator[Seen]:
    """Processes in containers, or below another root directory. `cookies`: cookies of network namespaces, by
    inode."""
    for pid in reader.pids():
        process = reader.process(pid, cookies)
        if process is not None:
            yield from _inside([process], trusted=reader.names_are_trusted(pid))


def _inside(processes: Iterable[Process], *, trusted: bool = True) -> Iterator[Seen]:
    for one in processes:
        if one.container or one.in_pid_namespace or one.exe_elsewhere:
            consumer = local_consumer(one, one.netns, name_is_trusted=trusted and not one.exe_untrusted)
            where = f"{one.container.label}: " if one.container else ""
            yield Seen(consumer, where + (one.exe or one.comm))
