"""Attaching the packet gate: a direct-action filter at the ingress of interfaces (tc-bpf(8)).

All state is in the kernel: a filter is ours by its name, which also says whether its clsact qdisc is ours, so
that a restarted agent goes on from there. Other tools' filters and qdiscs are never replaced or removed.
Raises KernelError where the kernel can't be asked.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Protocol, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.errors import KernelError
from agent.model import Namespace
from agent.system.closing import Closing

_CLSACT, _INGRESS, _EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
"""TC_H_CLSACT, and the two sides of it (linux/pkt_sched.h)."""
_ALL_PROTOCOLS = 0x0300
"""htons(ETH_P_ALL), as the low half of tcm_info has it."""
_CLASS = 0x10000
"""What makes a number a class: the major, which a program is not shown."""
_NO_LINK_HEADER = 0x8000
"""As in bpf/hooks/tc_gate.c."""
_LINK_BITS = {1: 0, 772: 0, 65534: _NO_LINK_HEADER, 519: _NO_LINK_HEADER}
"""By interface type (linux/if_arp.h): ETHER and LOOPBACK have an Ethernet header; NONE (TUN, WireGuard) and
RAWIP have none. Others are left to the socket gate."""
_MADE_QDISC = "+clsact"
_GONE = (errno.ENODEV, errno.ENOENT, errno.ENXIO)
_NUMBER, _COOKIE = struct.Struct("=I"), struct.Struct("=Q")
_LAST_NUMBER = 0x7FFF

T = TypeVar("T")


class NumberMap(Protocol):
    """The pinned map tc_netns: the cookie of a namespace (u64) by its number (u32)."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def items(self) -> Iterator[tuple[bytes, bytes]]: ...


class RunIn(Protocol):
    """agent.system.netns.run_in_namespace: runs `work` in a thread inside the namespace, and returns what it
    returns. Raises KernelError where the namespace is gone."""

    def __call__(self, namespace: Namespace, work: Callable[[], T]) -> T: ...


class Watch(Protocol):
    """Of interfaces and filters in the namespace it is made in; open, it keeps the namespace alive."""

    def changed(self) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """An interface."""

    netns: int
    """Cookie of its namespace."""
    interface: str
    index: int


@dataclass(slots=True)
class _Found:
    """What one namespace looks like after a visit."""

    attached: list[Place] = field(default_factory=list)
    hidden: list[Place] = field(default_factory=list)
    failed: dict[Place, str] = field(default_factory=dict)


class TcGate:
    """`name` is that of the filters, unique to the agent; `interfaces` are shell patterns, of names.
    attached() and failed() say what the last sync() has found; they and hidden() may be asked in another
    thread."""

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
        """`tcx_programs`: how many are at ingress of an interface, by its index in the thread's namespace."""
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
        """Attach to the matching interfaces of these namespaces, and to no others; a namespace that is gone
        meanwhile is left out. Takes about 3 ms for a namespace in which something has changed."""
        wanted = {namespace.cookie: namespace for namespace in namespaces} if self._patterns else {}
        for cookie in self._namespaces.keys() - wanted.keys():
            self._leave(self._namespaces[cookie])
        for namespace in wanted.values():
            if self._has_changed(namespace):
                self._enter(namespace)

    def detach(self, namespaces: Iterable[Namespace] = ()) -> None:
        """Remove our filters, those that an agent of the same name has left in `namespaces` too."""
        known = self._namespaces | {namespace.cookie: namespace for namespace in namespaces}
        for namespace in known.values():
            self._leave(namespace)

    def attached(self) -> list[Place]:
        return [place for found in tuple(self._found.values()) for place in found.attached]

    def hidden(self) -> list[Place]:
        """Where a filter of others, or a tcx program, runs before ours: what it accepts, ours never sees.

        Nothing tells of a tcx program that comes or goes, so those are looked for now."""
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
        """Where attaching failed, and what the kernel said."""
        return {place: why for found in tuple(self._found.values()) for place, why in found.failed.items()}

    def _has_changed(self, namespace: Namespace) -> bool:
        """Since the last visit, or there was none, or not all of it succeeded. What changes during a visit is
        seen by the next."""
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
            with _Ingress(self._name, namespace.cookie) as ingress:
                return self._cover(ingress, number, before)

        try:
            self._found[namespace.cookie] = self._run_in(namespace, visit)
        except KernelError:  # it is gone
            self._found.pop(namespace.cookie, None)

    def _cover(self, ingress: _Ingress, number: int, before: set[int]) -> _Found:
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
                if not first:
                    found.hidden.append(link.place)
            except NetlinkError as error:
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
            with _Ingress(self._name, namespace.cookie) as ingress:
                return _remove_all(ingress)

        try:
            failed = self._run_in(namespace, visit)
        except KernelError:  # it is gone, and its filters with it
            return
        for place, why in failed.items():
            raise KernelError(f"{place.interface}: our tc filter cannot be removed: {why}")


def _remove_all(ingress: _Ingress) -> dict[Place, str]:
    failed = {}
    for link in ingress.links():
        try:
            ingress.remove(link)
        except NetlinkError as error:
            if error.code not in _GONE:
                failed[link.place] = str(error)
    return failed


class _Numbers:
    """Of namespaces, as filters carry them. One is given to another namespace only when there are no more:
    a namespace that cannot be found for a while keeps its filters."""

    def __init__(self, rows: NumberMap) -> None:
        self._rows = rows
        self._numbers: dict[int, int] = {
            _COOKIE.unpack(cookie)[0]: _NUMBER.unpack(number)[0]
            for number, cookie in rows.items()
            if any(cookie)
        }

    def of(self, cookie: int, held: Container[int]) -> int:
        """`held`: cookies whose numbers are in use."""
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
        oldest = min(cookie for cookie in self._numbers if cookie not in held)  # cookies grow
        return self._numbers.pop(oldest)


@dataclass(frozen=True, slots=True)
class _Link:
    place: Place
    kind: int
    """ARPHRD_ of linux/if_arp.h."""


@dataclass(frozen=True, slots=True)
class _Filter:
    """One at ingress, in the order in which they run."""

    kind: str
    protocol: int
    priority: int
    handle: int
    name: str
    class_id: int


class _Ingress(Closing):
    """The ingress side of the interfaces of the namespace it is made in, for as long as it takes to look: an
    open socket keeps its namespace alive. pyroute2 has a socket for each thread, so use it in one."""

    def __init__(self, name: str, netns: int) -> None:
        self._name = name
        self._netns = netns
        self._route = IPRoute()
        self._with_qdisc = self._look_for_qdiscs()

    def close(self) -> None:
        self._route.close()

    def links(self) -> list[_Link]:
        return [
            _Link(Place(self._netns, row.get_attr("IFLA_IFNAME"), row["index"]), row["ifi_type"])
            for row in self._route.get_links()
        ]

    def _look_for_qdiscs(self) -> set[int]:
        """Indices of the interfaces that take filters at ingress: with a qdisc of kind clsact, or ingress."""
        return {row["index"] for row in self._route.get_qdiscs() if row["parent"] == _CLSACT}

    def put(self, link: _Link, program_fd: int, class_id: int, *, replace: bool) -> bool:
        """Have our filter there, with this class; `replace`: also where there is one, for its program. False:
        another runs before it."""
        index = link.place.index
        name = self._name
        if index not in self._with_qdisc and self._add_qdisc(index):
            name += _MADE_QDISC
        filters = self._filters(index)
        ours = next(filter(self._is_ours, filters), None)
        if ours:
            name, priority, handle, first = ours.name, ours.priority, ours.handle, ours is filters[0]
        else:
            priority, handle = _free_place(filters)
            first = all(one.priority >= priority for one in filters)  # of one priority, the newest is first
        if ours and ours.class_id == class_id and not replace:
            return first
        self._route.tc(
            "replace-filter",
            "bpf",
            index,
            parent=_INGRESS,
            prio=priority,
            handle=handle,
            fd=program_fd,
            name=name,
            classid=class_id,
            direct_action=True,
        )
        return first

    def _add_qdisc(self, index: int) -> bool:
        """False: another tool was faster. Never "replace": that would take its filters along."""
        try:
            self._route.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            return False
        self._with_qdisc.add(index)
        return True

    def remove(self, link: _Link) -> None:
        """Remove our filter, if there is one, and the qdisc if we made it and nobody else uses it."""
        index = link.place.index
        if index not in self._with_qdisc:
            return
        for one in filter(self._is_ours, self._filters(index)):
            self._route.tc("del-filter", "bpf", index, parent=_INGRESS, prio=one.priority, handle=one.handle)
            unused = not self._filters(index) and not self._filters(index, _EGRESS)
            if one.name.endswith(_MADE_QDISC) and unused:
                self._route.tc("del", "clsact", index)

    def _is_ours(self, one: _Filter) -> bool:
        return one.name.removesuffix(_MADE_QDISC) == self._name

    def _filters(self, index: int, side: int = _INGRESS) -> list[_Filter]:
        rows = self._route.get_filters(index=index, parent=side)
        return [_filter(row) for row in rows if row["handle"]]  # 0: the head of a priority


def _filter(row: Any) -> _Filter:
    kind, options = row.get_attr("TCA_KIND"), row.get_attr("TCA_OPTIONS")
    is_bpf = kind == "bpf" and options is not None
    return _Filter(
        kind=kind,
        protocol=row["info"] & 0xFFFF,
        priority=row["info"] >> 16,
        handle=row["handle"],
        name=(options.get_attr("TCA_BPF_NAME") or "") if is_bpf else "",
        class_id=(options.get_attr("TCA_BPF_CLASSID") or 0) if is_bpf else 0,
    )


def _free_place(filters: Sequence[_Filter]) -> tuple[int, int]:
    """The first priority and handle that replace nobody's filter: the filters of one priority are of one kind
    and protocol."""
    priority = 1
    while True:
        there = [one for one in filters if one.priority == priority]
        if all(one.kind == "bpf" and one.protocol == _ALL_PROTOCOLS for one in there):
            taken = {one.handle for one in there}
            return priority, next(handle for handle in itertools.count(1) if handle not in taken)
        priority += 1
