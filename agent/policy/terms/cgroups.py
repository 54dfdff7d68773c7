"""What a cgroup path says: which systemd unit, which container. The one place that reads such paths."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, replace

from agent.model import HostFacts

UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
"""Units that own a cgroup of their own (systemd.unit(5)); slices only group them."""

_WITH_ID = re.compile(
    r"(?:(docker|cri-containerd|crio|libpod|libpod-payload|nerdctl)-|.*:)?([0-9a-f]{64})(?:\.scope)?",
    re.DOTALL,
)
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}
_BARE_SCOPE = re.compile(r"(crun|runc)-(.+)\.scope", re.DOTALL)
_MACHINE = re.compile(r"machine-(?!(?:qemu|xen|ch|bhyve)\\x2d)(.*)\.scope", re.DOTALL)
"""machined's. libvirt's virtual machines have such a scope, too, and their processes are the host's."""
_LIBVIRT_LXC = re.compile(r"lxc-\d+-(.+)", re.DOTALL)
_NSPAWN = re.compile(r"systemd-nspawn@(.*)\.service", re.DOTALL)
_LXC = "lxc.payload."
_FOLDERS = {"lxc": "lxc", "lxc.payload": "lxc", "garden": "garden", "buildkit": "buildkit"}
"""Cgroups in which everything is a container, and whose."""
_PODS_OF_PODMAN = "libpod_parent"
_CONTROLLERS = frozenset(
    ("cgroup", "cpu", "cpuset", "io", "memory", "pids", "rdma", "hugetlb", "misc", "dmem", "debug")
)


@dataclass(frozen=True, slots=True)
class Top:
    """A container, as the path of its own cgroup shows it."""

    path: str
    id: str
    runtime: str
    """"": not shown."""
    name: str = ""
    """Where the path has it, and no runtime need be asked."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the paths of cgroups do not show."""

    delegated: Set[str] = frozenset()
    """Cgroups in which others than root can make some, or could when some were made."""
    tops: Set[str] = frozenset()
    """Own cgroups of containers, those included that have a bare name."""

    def is_hosts(self, path: str) -> bool:
        """Could only root have made a cgroup there, and outside of containers? Says nothing of the cgroup
        itself: root gives away what it has made, and a container's own cgroup is the host's."""
        above, parent = "", ""
        if "/" in self.delegated:
            return False
        for component in path.split("/")[1:-1]:
            above += f"/{component}"
            if above in self.delegated or above in self.tops or is_top(component, parent):
                return False
            parent = component
        return True

    def unit_at(self, path: str) -> str:
        """The unit or slice of this host whose own cgroup this is; "" if of none. Below a unit's cgroup the
        unit decides on names."""
        *above, last = path.split("/")[1:]
        if not last.endswith((*UNIT_SUFFIXES, ".slice")) or any(map(_is_unit, above)):
            return ""
        if (above and above[-1] in _FOLDERS) or not self.is_hosts(path):
            return ""
        return _unescaped(last)

    def unit_of(self, path: str) -> str:
        """The unit of this host that a cgroup is, or is in; "" if none. The first component that is a unit
        decides: what is below it could have any name."""
        own = ""
        for component in path.split("/")[1:]:
            own += f"/{component}"
            if _is_unit(component):
                return self.unit_at(own)
        return ""


NOTHING_KNOWN = Ground()


def ground_of(facts: HostFacts) -> Ground:
    return Ground(facts.delegated, facts.containers.keys())


def unit_of(cgroup: str, ground: Ground = NOTHING_KNOWN) -> str:
    return ground.unit_of(cgroup)


def _is_unit(component: str) -> bool:
    return component.endswith(UNIT_SUFFIXES)


def template_of(unit: str) -> str:
    """app@*.service of app@1.service, which is how a policy means all instances; "" if it is none."""
    name, dot, kind = unit.rpartition(".")
    template, at, instance = name.partition("@")
    return f"{template}@*{dot}{kind}" if at and instance else ""


def is_unit(pattern: str, cgroup: str, ground: Ground = NOTHING_KNOWN) -> bool:
    """True if `cgroup` is exactly the cgroup of this unit or slice (or an instance of this template), not
    something below it."""
    found = ground.unit_at(cgroup)
    return bool(found) and pattern in (found, template_of(found))


def cgroup_name(unit: str) -> str:
    """What the cgroup of a unit is called."""
    return _escaped(unit)


def is_top(component: str, parent: str) -> bool:
    """Is this the name of a container's own cgroup? bpf/lib/cgroup.h says the same."""
    return _top(component, parent) is not None


def container_in(path: str) -> Top | None:
    """The container a cgroup path lies in, the outermost; None if in none.

    Knows how docker, containerd, CRI-O and podman name cgroups, by their systemd and cgroupfs drivers, the
    latter often by the id alone (the runtime is "" then, but for docker's below /docker); LXC and what is
    built on it; systemd-nspawn and machined. conmon's own cgroups (crio-conmon-…) are not the container's,
    nor is a pod of podman. It is a name, not proof: a user can make such a directory in a delegated tree, and
    bare ids are known only to crun and runc."""
    own, parent = "", ""
    for component in path.split("/")[1:]:
        own += f"/{component}"
        if found := _top(component, parent):
            return replace(found, path=own)
        parent = component
    return None


def _top(component: str, parent: str) -> Top | None:
    if runtime := _FOLDERS.get(parent):
        return Top("", component, runtime, component)
    if component.startswith(_LXC):
        name = component.removeprefix(_LXC)
        return Top("", name, "lxc", name)
    if match := _NSPAWN.fullmatch(component):
        name = unescape_unit(match[1])
        return Top("", name, "systemd-nspawn", name)
    if match := _MACHINE.fullmatch(component):
        name = unescape_unit(match[1])
        if libvirt := _LIBVIRT_LXC.fullmatch(name):
            return Top("", libvirt[1], "libvirt-lxc", libvirt[1])
        return Top("", name, "systemd-nspawn", name)
    if match := _BARE_SCOPE.fullmatch(component):
        return Top("", match[2], match[1])
    if match := _WITH_ID.fullmatch(component):
        return _with_id(component, parent, match)
    return None


def _with_id(component: str, parent: str, match: re.Match[str]) -> Top | None:
    if component.removesuffix(".scope") == match[2]:
        return (
            None if parent == _PODS_OF_PODMAN else Top("", match[2], "docker" if parent == "docker" else "")
        )
    said = match[1] or component.rpartition(":")[0].rpartition(":")[2]
    return Top("", match[2], _RUNTIMES.get(said, ""))


def container_of(path: str) -> str:
    """The id of the container a cgroup path lies in; "" if in none."""
    found = container_in(path)
    return found.id if found else ""


def unescape_unit(text: str) -> str:
    """\\x2d and the like (systemd.unit(5)), and a dash for the slash that no such name has."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)


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
    """The unit whose cgroup has this name; "" if none has: an underscore stands only where it must."""
    unit = component.removeprefix("_")
    return unit if unit and _escaped(unit) == component else ""


def _escape_dashes(template: str) -> str:
    return template.replace("-", "\\x2d")


def _slice_path(unit: str) -> str:
    if unit == "-.slice":
        return "/"
    parts = unit.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(parts[: depth + 1])}.slice" for depth in range(len(parts)))
