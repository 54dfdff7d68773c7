"""What a cgroup path says: which systemd unit, which container. The one place that reads such paths."""

from __future__ import annotations

import re

UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
"""Units that own a cgroup of their own (systemd.unit(5)); slices only group them."""

_CONTAINER = re.compile(
    r"(?:(docker|cri-containerd|crio|libpod|libpod-payload|nerdctl)-|.*:(docker|cri-containerd|crio|nerdctl):)?"
    r"([0-9a-f]{64})(?:\.scope)?"
)
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}
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


def container_in(path: str) -> tuple[str, str, str] | None:
    """The container a cgroup path lies in, the outermost: (its own cgroup, its id of 64 hex digits, its
    runtime); None if in none.

    Knows how docker, containerd, CRI-O and podman name cgroups, by their systemd and cgroupfs drivers; the
    latter often give the id alone, and the runtime is "" then (but for docker's, below /docker). conmon's own
    cgroups (crio-conmon-…) are not the container's. It is a name, not proof: a user can make such a directory
    in a delegated tree."""
    own, above = "", ""
    for component in path.split("/")[1:]:
        own += f"/{component}"
        if match := _CONTAINER.fullmatch(component):
            runtime = _RUNTIMES.get(match[1] or match[2] or "", "")
            return own, match[3], runtime or ("docker" if above == "docker" else "")
        above = component
    return None


def container_of(path: str) -> str:
    """The id of the container a cgroup path lies in; "" if in none."""
    found = container_in(path)
    return found[1] if found else ""


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
