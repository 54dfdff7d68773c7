"""Does a process match a selector? For owners of ports, which user space judges; consumers are judged
by the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.model import HostFacts, Process
from agent.policy.cgroups import is_unit
from agent.policy.links import exe_selects
from agent.policy.networks import holds
from agent.policy.values import Selector


def could_be_owner(selectors: Sequence[Selector], process: Process, facts: HostFacts) -> bool:
    """True if any selector matches, or would if what is not known of the process were known; also where
    there is no selector: anybody may serve it then."""
    return not selectors or any(_matches(selector, process, facts) for selector in selectors)


def _matches(selector: Selector, process: Process, facts: HostFacts) -> bool:
    return all(answer is not False for answer in _answers(selector, process, facts))


def _answers(selector: Selector, process: Process, facts: HostFacts) -> Iterator[bool | None]:
    """One for each key the selector speaks of; None: not known."""
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
        paths = list(lineage(process.cgroup))
        in_unit = any(is_unit(unit, path) for unit in selector.units for path in paths)
        yield (in_unit or any(each in paths for each in selector.cgroups)) if process.cgroup else None
    if selector.containers:
        yield _is_container(selector, process)
    if selector.networks:
        yield _holds_any(selector, process, facts)


def _holds_any(selector: Selector, process: Process, facts: HostFacts) -> bool | None:
    if process.netns == facts.host_netns:
        return False
    for namespace in facts.namespaces:
        if namespace.cookie == process.netns:
            return any(holds(selector.networks, address) for address in namespace.addresses)
    return None


def _is_container(selector: Selector, process: Process) -> bool | None:
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
