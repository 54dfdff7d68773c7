"""The kernel's map `modes`: which targets have an override, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agent import abi
from agent.abi import NEVER_NS, U32, RawMode
from agent.enforce.override_file import Override
from agent.errors import KernelError
from agent.model import Mode, Target
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import MAX_TARGETS

Entries = Mapping[Target | None, Override]
"""By target; None stands for the host."""
_NONE = bytes(RawMode())
_NUMBERS = {Mode.OBSERVE: abi.Override.OBSERVE, Mode.ENFORCE: abi.Override.ENFORCE}
_HOST = 0
"""The index of the host."""


class ModeMap(Protocol):
    """The kernel's array `modes`."""

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, value: bytes) -> None: ...


class Targets(Protocol):
    """The targets of the policy in force, and their numbers."""

    @property
    def ids(self) -> Ids: ...

    def targets_in_force(self) -> Sequence[Target]: ...


@dataclass(slots=True)
class ModeTable:
    """The only writer of the map."""

    modes: ModeMap
    targets: Targets
    _written: frozenset[int] = frozenset(range(MAX_TARGETS + 1))
    """Indices that may hold an override. At the start these are all indices, because an earlier run may have
    left entries."""

    def with_deadlines(self, overrides: Iterable[Override]) -> Entries:
        """These overrides, each with the deadline that the map has, if the map still holds the override."""
        ids = self._indices()
        entries = {}
        for one in overrides:
            held = self.modes.get(U32.pack(ids[one.target])) if one.target in ids else None
            raw = RawMode.from_buffer_copy(held or _NONE)
            is_held = raw.override == _NUMBERS[one.mode] and raw.until_ns != NEVER_NS
            if is_held and one.until_boot_ns is not None:
                one = replace(one, until_boot_ns=raw.until_ns)
            entries[one.target] = one
        return entries

    def write(self, entries: Entries, now_boot_ns: int) -> None:
        """Hold these overrides and no others. An override of a target that the policy lacks, or whose
        deadline has passed, is left out. Raises KernelError."""
        ids = self._indices()
        wanted = {
            ids[key]: bytes(
                RawMode(NEVER_NS if one.until_boot_ns is None else one.until_boot_ns, _NUMBERS[one.mode])
            )
            for key, one in entries.items()
            if key in ids and one.in_force(now_boot_ns)
        }
        try:
            for index in self._written - wanted.keys():
                if (self.modes.get(U32.pack(index)) or _NONE) != _NONE:
                    self.modes.put(U32.pack(index), _NONE)
            for index, value in wanted.items():
                self.modes.put(U32.pack(index), value)
        except OSError as error:
            raise KernelError(
                f"the mode could not be written to the kernel's map `modes`: {error}"
            ) from error
        finally:
            self._written |= wanted.keys()
        self._written = frozenset(wanted)

    def _indices(self) -> dict[Target | None, int]:
        return {None: _HOST, **{one: self.targets.ids.target(one) for one in self.targets.targets_in_force()}}
