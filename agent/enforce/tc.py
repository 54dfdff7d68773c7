"""Attaches the tc gate: a direct-action filter at the ingress of interfaces (tc-bpf(8)).

All state is in the kernel, so a restarted agent continues from it. The name of a filter tells whether the
filter is ours. It also tells whether we made its clsact qdisc. Filters and qdiscs of other tools are never
replaced or removed. Raises KernelError if the kernel does not answer netlink requests.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Protocol, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from agent.enforce.ingress import Ingress, Place
from agent.errors import KernelError
from agent.model import Namespace

log = logging.getLogger(__name__)

_CLASS = 0x10000
"""The major number that makes a number a class id. The BPF program does not see it."""
_NO_LINK_HEADER = 0x8000
"""As in bpf/hooks/tc_gate.c."""
_LINK_BITS = {1: 0, 772: 0, 65534: _NO_LINK_HEADER, 519: _NO_LINK_HEADER}
"""By interface type (linux/if_arp.h). ETHER and LOOPBACK have an Ethernet header. NONE (TUN, WireGuard)
and RAWIP have none. The tc gate skips all other types and leaves them to the socket gate."""
_GONE = (errno.ENODEV, errno.ENOENT, errno.ENXIO)
_NUMBER, _COOKIE = struct.Struct("=I"), struct.Struct("=Q")
_LAST_NUMBER = 0x7FFF

T = TypeVar("T")


class NumberMap(Protocol):
    """The pinned map tc_netns: from the number of a namespace (u32) to its cookie (u64)."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def items(self) -> Iterator[tuple[bytes, bytes]]: ...


class RunIn(Protocol):
    """agent.system.netns.run_in_namespace: runs `work` in a thread inside the namespace and returns its
    result. Raises KernelError if the namespace no longer exists."""

    def __call__(self, namespace: Namespace, work: Callable[[], T]) -> T: ...


class Watch(Protocol):
    """Watches interfaces and filters of the namespace that the constructor runs in. An open watch keeps
    the namespace alive."""

    def changed(self) -> bool: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Found:
    """The state of one namespace after a visit."""

    attached: list[Place] = field(default_factory=list)
    hidden: list[Place] = field(default_factory=list)
    failed: dict[Place, str] = field(default_factory=dict)


class TcGate:
    """`name` is the name of the filters, unique to this agent. `interfaces` are shell patterns of
    interface names. attached() and failed() return the result of the last sync(). attached(), failed() and
    hidden() may be called from another thread."""

    def __init__(
        self,
        program_fd: int,
        numbers: NumberMap,
        name: str,
        interfaces: Sequence[str],
        run_in: RunIn,
        watch: Callable[[], Watch],
        tcx_programs: Callable[[int], int],
    ) -> None:
        """`tcx_programs` counts the tcx programs at the ingress of an interface. It takes the interface's
        index in the calling thread's namespace."""
        self._program_fd = program_fd
        self._numbers = _Numbers(numbers)
        self._name = name
        self._patterns = tuple(interfaces)
        self._run_in = run_in
        self._watch = watch
        self._tcx_programs = tcx_programs
        self._namespaces: dict[int, Namespace] = {}
        self._found: dict[int, _Found] = {}
        self._watches: dict[int, Watch] = {}

    def sync(self, namespaces: Iterable[Namespace]) -> None:
        """Attach to the matching interfaces of these namespaces, and detach from all others. A namespace
        that disappears meanwhile is skipped. Takes about 3 ms for each namespace in which something has
        changed."""
        wanted = {namespace.cookie: namespace for namespace in namespaces} if self._patterns else {}
        for cookie in self._namespaces.keys() - wanted.keys():
            self._leave(self._namespaces[cookie])
        for namespace in wanted.values():
            if self._has_changed(namespace):
                self._enter(namespace)

    def detach(self, namespaces: Iterable[Namespace] = ()) -> None:
        """Remove our filters. Filters that an agent of the same name has left in `namespaces` are removed
        too."""
        known = self._namespaces | {namespace.cookie: namespace for namespace in namespaces}
        for namespace in known.values():
            self._leave(namespace)

    def attached(self) -> list[Place]:
        return [place for found in tuple(self._found.values()) for place in found.attached]

    def hidden(self) -> list[Place]:
        """The interfaces where another tool's filter or a tcx program runs before our filter. Our filter
        never sees the packets that such a program accepts.

        The kernel does not announce when tcx programs are attached or detached, so each call looks for
        them."""
        behind_filters = [place for found in tuple(self._found.values()) for place in found.hidden]
        return list(dict.fromkeys([*behind_filters, *self._behind_tcx()]))

    def _behind_tcx(self) -> Iterator[Place]:
        for cookie, namespace in tuple(self._namespaces.items()):
            attached = self._found.get(cookie, _Found()).attached
            work = partial(self._with_tcx, attached)
            with contextlib.suppress(KernelError):  # it is gone
                yield from self._run_in(namespace, work)

    def _with_tcx(self, places: Sequence[Place]) -> list[Place]:
        return [place for place in places if self._tcx_programs(place.index)]

    def failed(self) -> dict[Place, str]:
        """The interfaces where attaching failed, with the kernel's error."""
        return {place: why for found in tuple(self._found.values()) for place, why in found.failed.items()}

    def _has_changed(self, namespace: Namespace) -> bool:
        """True if the namespace was not visited yet, if it changed since the last visit, or if part of
        that visit failed. The next visit sees what changes during this one."""
        watch = self._watches.get(namespace.cookie)
        if watch is not None:
            found = self._found.get(namespace.cookie)
            return watch.changed() or found is None or bool(found.failed)
        with contextlib.suppress(KernelError):  # it is gone
            self._watches[namespace.cookie] = self._run_in(namespace, self._watch)
        return True

    def _enter(self, namespace: Namespace) -> None:
        number = self._numbers.of(namespace.cookie, self._namespaces)
        before = {place.index for place in self._found.get(namespace.cookie, _Found()).attached}
        self._namespaces[namespace.cookie] = namespace

        def visit() -> _Found:
            with Ingress(self._name, namespace.cookie) as ingress:
                return self._cover(ingress, number, before)

        try:
            self._found[namespace.cookie] = self._run_in(namespace, visit)
        except KernelError:  # it is gone
            self._found.pop(namespace.cookie, None)

    def _cover(self, ingress: Ingress, number: int, before: set[int]) -> _Found:
        found = _Found()
        for link in ingress.links():
            bits = _LINK_BITS.get(link.kind)
            try:
                if bits is None or not self._matches(link.place.interface):
                    ingress.remove(link)
                    continue
                fresh = link.place.index not in before
                first = ingress.put(link, self._program_fd, _CLASS | bits | number, replace=fresh)
                found.attached.append(link.place)
                if fresh:
                    log.debug("tc gate: at %s", link.place)
                if not first:
                    found.hidden.append(link.place)
            except NetlinkError as error:
                log.debug("tc gate: not at %s: %s", link.place, error)
                if error.code not in _GONE:
                    found.failed[link.place] = str(error)
        return found

    def _matches(self, interface: str) -> bool:
        return any(fnmatchcase(interface, pattern) for pattern in self._patterns)

    def _leave(self, namespace: Namespace) -> None:
        self._namespaces.pop(namespace.cookie, None)
        self._found.pop(namespace.cookie, None)
        watch = self._watches.pop(namespace.cookie, None)
        if watch is not None:
            watch.close()

        def visit() -> dict[Place, str]:
            with Ingress(self._name, namespace.cookie) as ingress:
                return _remove_all(ingress)

        try:
            failed = self._run_in(namespace, visit)
        except KernelError:  # it is gone, and its filters with it
            return
        for place, why in failed.items():
            raise KernelError(f"{place.interface}: our tc filter cannot be removed: {why}")


def _remove_all(ingress: Ingress) -> dict[Place, str]:
    failed = {}
    for link in ingress.links():
        try:
            ingress.remove(link)
        except NetlinkError as error:
            if error.code not in _GONE:
                failed[link.place] = str(error)
    return failed


class _Numbers:
    """The numbers of namespaces that filters carry. A number is given to another namespace only when no
    free number is left: a namespace that cannot be found for a while keeps its filters."""

    def __init__(self, rows: NumberMap) -> None:
        self._rows = rows
        self._numbers: dict[int, int] = {
            _COOKIE.unpack(cookie)[0]: _NUMBER.unpack(number)[0]
            for number, cookie in rows.items()
            if any(cookie)
        }

    def of(self, cookie: int, held: Container[int]) -> int:
        """The number of a namespace. `held`: cookies of the namespaces whose numbers are in use."""
        number = self._numbers.get(cookie)
        if number is None:
            number = self._free(held)
            self._rows.put(_NUMBER.pack(number), _COOKIE.pack(cookie))
            self._numbers[cookie] = number
        return number

    def _free(self, held: Container[int]) -> int:
        taken = set(self._numbers.values())
        for number in range(1, _LAST_NUMBER + 1):
            if number not in taken:
                return number
        # later namespaces have larger cookies
        oldest = min(cookie for cookie in self._numbers if cookie not in held)
        return self._numbers.pop(oldest)
