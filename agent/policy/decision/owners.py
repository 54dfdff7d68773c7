"""Tests whether a process matches a selector. Used for owners of ports, which user space judges. Consumers
are judged by the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.model import HostFacts, Process
from agent.policy.tables.shape import MAX_CGROUPS
from agent.policy.terms.cgroups import ground_of, is_unit
from agent.policy.terms.networks import holds
from agent.policy.terms.symlinks import exe_selects
from agent.policy.values import Selector


def could_be_owner(selectors: Sequence[Selector], process: Process, facts: HostFacts) -> bool:
    """True if a selector matches, or would match if more were known of the process."""
    return is_owner(selectors, process, facts) is not False


def is_owner(selectors: Sequence[Selector], process: Process, facts: HostFacts) -> bool | None:
    """True if any selector matches. None: not known. True if there are no selectors: then any process may
    serve it."""
    matches = {_matches(selector, process, facts) for selector in selectors} or {True}
    return True if True in matches else None if None in matches else False


def _matches(selector: Selector, process: Process, facts: HostFacts) -> bool | None:
    answers = set(_answers(selector, process, facts))
    return False if False in answers else None if None in answers else True


def _answers(selector: Selector, process: Process, facts: HostFacts) -> Iterator[bool | None]:
    """One answer for each key that the selector has; None: not known."""
    if selector.confined:
        yield not _is_contained(process, facts) and not (selector.exe and process.exe_elsewhere)
    if selector.exe:
        known = bool(process.exe)
        yield any(exe_selects(each, process.exe, facts.realpaths) for each in selector.exe) if known else None
    if selector.users or selector.uids:
        wanted = {*selector.uids, *_known(selector.users, facts.users)}
        yield None if process.uid is None else process.uid in wanted
    if selector.groups or selector.gids:
        wanted = {*selector.gids, *_known(selector.groups, facts.groups)}
        held = {*process.gids, *(() if process.gid is None else (process.gid,))}
        yield bool(held & wanted) if held else None
    if selector.units or selector.cgroups:
        paths, ground = list(lineage(process.cgroup))[-MAX_CGROUPS:], ground_of(facts)
        in_unit = any(is_unit(unit, path, ground) for unit in selector.units for path in paths)
        yield (in_unit or any(each in paths for each in selector.cgroups)) if process.cgroup else None
    if selector.containers:
        yield _is_container(selector, process, facts)
    if selector.networks:
        yield _holds_any(selector, process, facts)


def _holds_any(selector: Selector, process: Process, facts: HostFacts) -> bool | None:
    if process.netns == facts.host_netns:
        return False
    for namespace in facts.namespaces:
        if namespace.cookie == process.netns:
            return any(holds(selector.networks, address) for address in namespace.addresses)
    return None


def _is_contained(process: Process, facts: HostFacts) -> bool:
    return process.in_pid_namespace or any(path in facts.containers for path in lineage(process.cgroup))


def _is_container(selector: Selector, process: Process, facts: HostFacts) -> bool | None:
    if any(each.any for each in selector.containers) and _is_contained(process, facts):
        return True
    if process.container is None:
        return False if process.cgroup else None
    if not process.container.known:
        return None
    return any(each.takes(process.container) for each in selector.containers)


def _known(names: Iterable[str], ids: Mapping[str, int]) -> Iterator[int]:
    return (ids[name] for name in names if name in ids)


def lineage(cgroup: str) -> Iterator[str]:
    """A cgroup2 path and each ancestor but the root, deepest first."""
    path = cgroup.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]
