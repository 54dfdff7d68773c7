"""The consumer of a use: a process, completed once and remembered by row, with the names that people and
labels use."""

from __future__ import annotations

from dataclasses import replace

from agent import abi
from agent.daemon.tracking.attribution import Attributor
from agent.kernel.tables.rows import Use
from agent.model import Address, LocalConsumer, Process, show_network
from agent.policy.decision.owners import lineage
from agent.policy.decision.question import NOBODY
from agent.policy.terms.networks import FAR, NEAR, around

NAMED_CONSUMERS = 100
OTHER = "other"
REMOTE = "remote"


class Consumers:
    """Consumers of the rows that exist. May be read while another thread adds to it."""

    def __init__(self, attributor: Attributor) -> None:
        self._attributor = attributor
        self._known: dict[bytes, Process | None] = {}

    def of(self, use: Use) -> Process | None:
        if not use.is_of_one:
            return None if use.consumer is None else self._many(use)
        known = self._known.get(use.key)
        if known is None and use.consumer is not None:
            known = self._known[use.key] = self._attributor.complete(use.consumer, comm=use.comm)
        elif known is not None and not known.exe and use.consumer is not None and use.consumer.exe:
            # the executable's name arrived after the event
            known = self._known[use.key] = replace(known, exe=use.consumer.exe)
        return known

    def _many(self, use: Use) -> Process:
        """A process that stands for many consumers. At most their user is known."""
        uid = abi.UseKey.from_buffer_copy(use.key).uid
        return self._attributor.complete(Process(uid=uid)) if use.use_of is abi.UseOf.MANY else Process()

    def remember(self, key: bytes, consumer: Process | None) -> None:
        self._known[key] = consumer

    def restore(self, key: bytes, consumer: Process | None) -> None:
        """Add a consumer that an earlier daemon stored. One that is known here takes precedence."""
        self._known.setdefault(key, consumer)

    def forget(self, key: bytes) -> None:
        self._known.pop(key, None)

    def keys(self) -> set[bytes]:
        return set(self._known.copy())


def consumer_name(consumer: Process | None) -> str:
    """The label of licet_violations_by_consumer_total: bounded, and never an address or a path."""
    if consumer is None:
        return REMOTE
    container = consumer.container
    if container and container.known:  # if such a container has a unit, that is docker-ID.scope
        return container.label
    executable = consumer.exe.rpartition("/")[2]
    return consumer.unit or (container and container.label) or executable or consumer.comm or "unknown"


class ConsumerLabels:
    """At most NAMED_CONSUMERS labels, the first ones seen.

    Any user can run an executable of any name. All labels from executables together get one half, so that
    they cannot use up the labels of units and containers."""

    def __init__(self) -> None:
        self._named: set[str] = {REMOTE}
        self._of_executables: set[str] = set()

    def of(self, consumer: Process | None) -> str:
        """The consumer's name while there is room, else OTHER. None stands for a remote consumer."""
        name = consumer_name(consumer)
        if name in self._named or name in self._of_executables:
            return name
        only_an_executable = consumer is not None and not (consumer.unit or consumer.container)
        named, most = (
            (self._of_executables, NAMED_CONSUMERS // 2)
            if only_an_executable
            else (self._named, NAMED_CONSUMERS - NAMED_CONSUMERS // 2)
        )
        if len(named) >= most:
            return OTHER
        named.add(name)
        return name


def name_of(use: Use, consumer: Process | None) -> str:
    """The name for people: container, unit, executable, or the network of a remote consumer."""
    if consumer is None:
        return network_name(use)
    if use.is_of_one:
        return consumer_name(consumer)
    return f"others of user {consumer.user or consumer.uid}" if use.use_of is abi.UseOf.MANY else "others"


def network_of(use: Use) -> Address:
    """The first address of the network that stands for a remote consumer."""
    address: Address = abi.UseKey.from_buffer_copy(use.key).source.value()
    return address


def network_name(use: Use) -> str:
    address = use.source
    if use.use_of is abi.UseOf.OTHERS:
        return "other networks"
    return show_network(around(address, NEAR if use.use_of is abi.UseOf.ONE else FAR))


def local_consumer(process: Process, netns: int, *, name_is_trusted: bool = True) -> LocalConsumer:
    """A process as the policy judges it. A path that is not trusted matches no selector."""
    return LocalConsumer(
        exe=(process.exe or None) if name_is_trusted else "",
        uid=process.uid or 0,
        gids=frozenset(process.gids),
        cgroups=tuple(lineage(process.cgroup)),
        netns=netns,
        in_pid_namespace=process.in_pid_namespace,
        exe_elsewhere=process.exe_elsewhere,
        owners=tuple((uid, NOBODY) for uid in process.user_owners),
    )
