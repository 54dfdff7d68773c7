"""Attaches the tc gate: a direct-action filter at the ingress of interfaces (tc-bpf(8)).

All state is in the kernel, so a restarted agent continues from it. The name of a filter tells whether the
filter is ours. It also tells whether we made its clsact qdisc. Filters and qdiscs of other tools are never
replaced or removed. Raises KernelError if the kernel does not answer netlink requests.
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
"""TC_H_CLSACT and its two sides (linux/pkt_sched.h)."""
_ALL_PROTOCOLS = 0x0300
"""htons(ETH_P_ALL), as it stands in the low half of tcm_info."""
_CLASS = 0x10000
"""The major number that makes a number a class id. The BPF program does not see it."""
_NO_LINK_HEADER = 0x8000
"""As in bpf/hooks/tc_gate.c."""
_LINK_BITS = {1: 0, 772: 0, 65534: _NO_LINK_HEADER, 519: _NO_LINK_HEADER}
"""By interface type (linux/if_arp.h). ETHER and LOOPBACK have an Ethernet header. NONE (TUN, WireGuard)
and RAWIP have none. The tc gate skips all other types and leaves them to the socket gate."""
_MADE_QDISC = "+clsact"
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


@dataclass(frozen=True, slots=True)
class Place:
    """An interface."""

    netns: int
    """Cookie of the interface's network namespace."""
    interface: str
    index: int


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


@dataclass(frozen=True, slots=True)
class _Link:
    place: Place
    kind: int
    """ARPHRD_ of linux/if_arp.h."""


@dataclass(frozen=True, slots=True)
class _Filter:
    """One filter at ingress. The kernel runs filters in the order it lists them."""

    kind: str
    protocol: int
    priority: int
    handle: int
    name: str
    class_id: int


class _Ingress(Closing):
    """The ingress side of the interfaces of the namespace that the constructor runs in. Close it soon: an
    open socket keeps its namespace alive. Use it in one thread only, because pyroute2 has one socket per
    thread."""

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
        """Indices of the interfaces that accept filters at ingress: those with a clsact or ingress qdisc."""
        return {row["index"] for row in self._route.get_qdiscs() if row["parent"] == _CLSACT}

    def put(self, link: _Link, program_fd: int, class_id: int, *, replace: bool) -> bool:
        """Attach our filter with this class. `replace`: replace the program of a filter of ours that is
        already there. Return False if another filter runs before ours."""
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
            # within one priority, the newest runs first
            first = all(one.priority >= priority for one in filters)
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
        """Add a clsact qdisc. Return False if another tool has just added one. Never use "replace" here:
        it would remove the filters of that tool."""
        try:
            self._route.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            return False
        self._with_qdisc.add(index)
        return True

    def remove(self, link: _Link) -> None:
        """Remove our filter, if there is one. Remove the qdisc too, if we made it and no filter of another
        tool uses it."""
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
    """The first priority and handle that replace no filter of another tool. All filters of one priority
    have the same kind and protocol."""
    priority = 1
    while True:
        there = [one for one in filters if one.priority == priority]
        if all(one.kind == "bpf" and one.protocol == _ALL_PROTOCOLS for one in there):
            taken = {one.handle for one in there}
            return priority, next(handle for handle in itertools.count(1) if handle not in taken)
        priority += 1
