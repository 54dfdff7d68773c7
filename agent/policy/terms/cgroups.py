"""Finds the systemd unit or the container in a cgroup path. No other module parses such paths."""

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
"""Scopes of systemd-machined. libvirt's virtual machines also have such a scope, but their processes are the
host's."""
_LIBVIRT_LXC = re.compile(r"lxc-\d+-(.+)", re.DOTALL)
_NSPAWN = re.compile(r"systemd-nspawn@(.*)\.service", re.DOTALL)
_LXC = "lxc.payload."
_FOLDERS = {"lxc": "lxc", "lxc.payload": "lxc", "garden": "garden", "buildkit": "buildkit"}
"""Cgroups whose children are all containers, and their runtime."""
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
    """Empty: the path does not show it."""
    name: str = ""
    """Set if the path has the name, so that no runtime need be asked."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Facts that the paths of cgroups do not show."""

    delegated: Set[str] = frozenset()
    """Cgroups in which users other than root can create some, or could when some were created."""
    tops: Set[str] = frozenset()
    """Top cgroups of containers, also of those whose cgroup's name shows no container (/web)."""

    def is_hosts(self, path: str) -> bool:
        """True if only root could have created a cgroup there, outside of containers. This is not about the
        cgroup itself: root may have given it away, and a container's own cgroup is the host's."""
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
        """The unit or slice of this host whose own cgroup this is; "" if none. Below a unit's cgroup, that
        unit chooses the names."""
        *above, last = path.split("/")[1:]
        if not last.endswith((*UNIT_SUFFIXES, ".slice")) or any(map(_is_unit, above)):
            return ""
        if (above and above[-1] in _FOLDERS) or not self.is_hosts(path):
            return ""
        return _unescaped(last)

    def unit_of(self, path: str) -> str:
        """The unit of this host that a cgroup is, or is in; "" if none. The first component that is a unit
        decides, because cgroups below it could have any name."""
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
    """app@*.service for app@1.service, which is how a policy writes all instances; "" if it is not an
    instance."""
    name, dot, kind = unit.rpartition(".")
    template, at, instance = name.partition("@")
    return f"{template}@*{dot}{kind}" if at and instance else ""


def is_unit(pattern: str, cgroup: str, ground: Ground = NOTHING_KNOWN) -> bool:
    """True if `cgroup` is exactly the cgroup of this unit or slice (or an instance of this template), not
    something below it."""
    found = ground.unit_at(cgroup)
    return bool(found) and pattern in (found, template_of(found))


def cgroup_name(unit: str) -> str:
    """The name of a unit's cgroup."""
    return _escaped(unit)


def is_top(component: str, parent: str) -> bool:
    """True if this is the name of a container's own cgroup. bpf/lib/cgroup.h does the same."""
    return _top(component, parent) is not None


def container_in(path: str) -> Top | None:
    """The outermost container that a cgroup path lies in; None if there is none.

    Covers docker, containerd, CRI-O and podman with their systemd and cgroupfs drivers; LXC and runtimes
    built on it; systemd-nspawn and machined. cgroupfs names are often the id alone; the runtime is "" then,
    except below /docker. conmon's own cgroups (crio-conmon-…) and a pod of podman are not containers.

    A name is not proof: a user can create such a directory in a delegated tree. Only crun and runc know bare
    ids.
    """
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


def unescape_unit(text: str) -> str:
    """\\x2d and the like (systemd.unit(5)), and a dash for the slash that no such name has."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)


def usual_cgroup(unit: str) -> str:
    """Where the system manager puts a unit without a Slice= of its own (systemd.slice(5)). Instances of a
    template share a slice, and the dashes of a slice's name are its path."""
    if unit.endswith(".slice"):
        return _slice_path(unit)
    name = unit.rpartition(".")[0]
    template, at, _ = name.partition("@")
    if at:
        return f"/system.slice/system-{_escape_dashes(template)}.slice/{_escaped(unit)}"
    return f"/system.slice/{_escaped(unit)}"


def _escaped(unit: str) -> str:
    """cg_escape() of systemd: a name that could be a kernel file's gets an underscore in front."""
    return f"_{unit}" if unit[0] in "_." or unit.partition(".")[0] in _CONTROLLERS else unit


def _unescaped(component: str) -> str:
    """The unit whose cgroup has this name; "" if none. systemd puts the underscore only where it must."""
    unit = component.removeprefix("_")
    return unit if unit and _escaped(unit) == component else ""


def _escape_dashes(template: str) -> str:
    return template.replace("-", "\\x2d")


def _slice_path(unit: str) -> str:
    if unit == "-.slice":
        return "/"
    parts = unit.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(parts[: depth + 1])}.slice" for depth in range(len(parts)))
