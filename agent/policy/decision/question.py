"""A consumer that a user asks about by names: for `licet explain` and `licet policy test`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from agent.model import Address, Consumer, Container, LocalConsumer, RemoteConsumer
from agent.policy.decision.consumer_sets import NO_EXECUTABLE
from agent.policy.decision.owners import lineage
from agent.policy.terms.cgroups import usual_cgroup

NOBODY = (1 << 32) - 2
"""A uid that no selector matches, for a consumer whose user was not given (-2, the highest possible uid)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A consumer, as far as it was given. What was not given matches no selector. With an address, the
    consumer is remote."""

    exe: str = NO_EXECUTABLE
    user: str | int | None = None
    groups: tuple[str | int, ...] = ()
    """Primary and supplementary groups."""
    unit: str = ""
    cgroup: str = ""
    container: Container | None = None
    address: Address | None = None

    @property
    def cgroups(self) -> tuple[str, ...]:
        """The cgroup and its ancestors. For a unit: where the system manager usually puts it. For a
        container: an invented path."""
        if self.container is not None:
            return (f"/container/{crc32(repr(self.container).encode()):08x}",)
        return tuple(lineage(self.cgroup or (usual_cgroup(self.unit) if self.unit else "")))


def consumer_of(
    question: Question, users: Mapping[str, int], groups: Mapping[str, int], netns: int
) -> Consumer:
    """Raises KeyError with the name of a user or group that the mappings lack."""
    if question.address is not None:
        return RemoteConsumer(question.address)
    uid = NOBODY if question.user is None else _number(question.user, users)
    return LocalConsumer(
        exe=question.exe,
        uid=uid,
        gids=frozenset(_number(group, groups) for group in question.groups),
        cgroups=question.cgroups,
        netns=netns,
        exe_elsewhere=question.container is not None,
    )


def _number(account: str | int, known: Mapping[str, int]) -> int:
    return account if isinstance(account, int) else known[account]
