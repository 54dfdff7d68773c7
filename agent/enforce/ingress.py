"""The ingress side of interfaces, by netlink: their qdiscs and filters (tc-bpf(8))."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.system.closing import Closing

_CLSACT, _INGRESS, _EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
"""TC_H_CLSACT and its two sides (linux/pkt_sched.h)."""
_ALL_PROTOCOLS = 0x0300
"""htons(ETH_P_ALL), as it stands in the low half of tcm_info."""
_MADE_QDISC = "+clsact"


@dataclass(frozen=True, slots=True)
class Place:
    """An interface."""

    netns: int
    """Cookie of the interface's network namespace."""
    interface: str
    index: int


@dataclass(frozen=True, slots=True)
class Link:
    place: Place
    kind: int
    """ARPHRD_ of linux/if_arp.h."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter at ingress. The kernel runs filters in the order it lists them."""

    kind: str
    protocol: int
    priority: int
    handle: int
    name: str
    class_id: int


class Ingress(Closing):
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

    def links(self) -> list[Link]:
        return [
            Link(Place(self._netns, row.get_attr("IFLA_IFNAME"), row["index"]), row["ifi_type"])
            for row in self._route.get_links()
        ]

    def _look_for_qdiscs(self) -> set[int]:
        """Indices of the interfaces that accept filters at ingress: those with a clsact or ingress qdisc."""
        return {row["index"] for row in self._route.get_qdiscs() if row["parent"] == _CLSACT}

    def put(self, link: Link, program_fd: int, class_id: int, *, replace: bool) -> bool:
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

    def remove(self, link: Link) -> None:
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

    def _is_ours(self, one: Filter) -> bool:
        return one.name.removesuffix(_MADE_QDISC) == self._name

    def _filters(self, index: int, side: int = _INGRESS) -> list[Filter]:
        rows = self._route.get_filters(index=index, parent=side)
        return [_filter(row) for row in rows if row["handle"]]  # 0: the head of a priority


def _filter(row: Any) -> Filter:
    kind, options = row.get_attr("TCA_KIND"), row.get_attr("TCA_OPTIONS")
    is_bpf = kind == "bpf" and options is not None
    return Filter(
        kind=kind,
        protocol=row["info"] & 0xFFFF,
        priority=row["info"] >> 16,
        handle=row["handle"],
        name=(options.get_attr("TCA_BPF_NAME") or "") if is_bpf else "",
        class_id=(options.get_attr("TCA_BPF_CLASSID") or 0) if is_bpf else 0,
    )


def _free_place(filters: Sequence[Filter]) -> tuple[int, int]:
    """The first priority and handle that replace no filter of another tool. All filters of one priority
    have the same kind and protocol."""
    priority = 1
    while True:
        there = [one for one in filters if one.priority == priority]
        if all(one.kind == "bpf" and one.protocol == _ALL_PROTOCOLS for one in there):
            taken = {one.handle for one in there}
            return priority, next(handle for handle in itertools.count(1) if handle not in taken)
        priority += 1
