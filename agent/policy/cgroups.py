"""What a cgroup path says: which systemd unit, which container. The one place that reads such paths."""

from __future__ import annotations

import re

UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
"""Units that own a cgroup of their own (systemd.unit(5)); slices only group them."""

_CONTAINER = re.compile(
    r"(?:(?:docker|cri-containerd|crio|libpod|libpod-payload|nerdctl)-|.*:(?:docker|cri-containerd|crio):)?"
    r"([0-9a-f]{64})(?:\.scope)?"
)
_CONTROLLERS = frozenset(
    ("cgroup", "cpu", "cpuset", "io", "memory", "pids", "rdma", "hugetlb", "misc", "dmem", "debug")
)


def unit_of(cgroup: str) -> str:
    """The systemd unit a cgroup path is, or is in; "" if none.

    The first component that is a unit decides: what is below it is delegated to the unit, which could
    make a directory with any name there. For the same reason nothing below a container is a unit of
    this host."""
    for component in cgroup.split("/"):
        if component.endswith(UNIT_SUFFIXES):
            return _unescaped(component)
        if _CONTAINER.fullmatch(component):
            return ""
    return ""


def is_unit(unit: str, cgroup: str) -> bool:
    """True if `cgroup` is exactly the cgroup of this unit or slice, not something below it."""
    *above, last = [part for part in cgroup.split("/") if part] or [""]
    if _unescaped(last) != unit:
        return False
    return not any(part.endswith(UNIT_SUFFIXES) or _CONTAINER.fullmatch(part) for part in above)


def container_of(path: str) -> str:
    """The id (64 hex digits) of the container a cgroup path lies in, the outermost; "" if in none.

    Knows how docker, containerd, CRI-O and podman name cgroups, by their systemd and cgroupfs drivers;
    conmon's own cgroups (crio-conmon-…) are not the container's. It is a name, not proof: a user can
    make such a directory in a delegated tree."""
    for component in path.split("/"):
        if match := _CONTAINER.fullmatch(component):
            return match[1]
    return ""


def usual_cgroup(unit: str) -> str:
    """Where the system manager puts a unit that has no Slice= of its own (systemd.slice(5)): instances
    of a template get a slice together, and the dashes of a slice's name are its path."""
    if unit.endswith(".slice"):
        return _slice_path(unit)
    name = unit.rpartition(".")[0]
    template, at, _ = name.partition("@")
    if at:
        return f"/system.slice/system-{_escape_dashes(template)}.slice/{_escaped(unit)}"
    return f"/system.slice/{_escaped(unit)}"


def _escaped(unit: str) -> str:
    """cg_escape() in systemd: a name that could be a kernel file's gets an underscore in front."""
    return f"_{unit}" if unit[0] in "_." or unit.partition(".")[0] in _CONTROLLERS else unit


def _unescaped(component: str) -> str:
    return component.removeprefix("_")


def _escape_dashes(template: str) -> str:
    return template.replace("-", "\\x2d")


def _slice_path(unit: str) -> str:
    if unit == "-.slice":
        return "/"
    parts = unit.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(parts[: depth + 1])}.slice" for depth in range(len(parts)))
