"""The container of a cgroup, with its name. It is looked up once, and cached until the cgroup is removed."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.model import Container
from agent.observe.cgroup import directory, made_by_others, others_may_make
from agent.observe.containers import bare
from agent.observe.containers.containerd import read_containerd
from agent.observe.containers.cri import NEVER, Cri
from agent.observe.containers.docker import read_docker
from agent.observe.containers.published import Published
from agent.observe.containers.storage import Storage
from agent.policy.terms.cgroups import UNIT_SUFFIXES, Ground, Top, container_in

log = logging.getLogger(__name__)

RETRY_S = 0.1
"""How long to wait before a missing name is looked up again."""
_NUMBER = re.compile(r"[0-9a-f]{64}")
_IN_A_POD = re.compile(r"libpod-([0-9a-f]{64})")
_MOST = 65536
"""The most cached cgroups; a host has some thousands."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Directories in which runtimes store their state."""

    containerd: tuple[Path, ...]
    docker: tuple[Path, ...]
    storage: tuple[Path, ...]
    """State of CRI-O and podman: bundles, and the list of names."""
    crun: Path
    runc: Path
    cni: Path
    """CNI's cache of results, which has published ports. netavark's directory has them too."""
    netavark: Path

    def found(self) -> dict[str, str]:
        """By runtime: the directories that have content; "" if none has. Empty ones do not count, because
        a Helm chart creates the directories that it mounts."""
        places = {
            "containerd": self.containerd,
            "docker": self.docker,
            "cri-o, podman": self.storage,
            "crun": (self.crun,),
            "runc": (self.runc,),
        }
        return {
            name: ", ".join(str(path) for path in paths if _has_something(path))
            for name, paths in places.items()
        }


def _has_something(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _first(
    read: Callable[[Path, str], Container | None], roots: tuple[Path, ...], number: str
) -> Container | None:
    return next((found for root in roots if (found := read(root, number))), None)


class Containers:
    """Thread-safe: a cached entry is only ever replaced by an equal or better one.

    A cgroup's name counts only if no unprivileged user could have made the cgroup. In a tree delegated to
    a user, any directory may have any name."""

    def __init__(
        self,
        roots: Roots,
        cgroup_mount: Path,
        clock: Callable[[], float] = time.monotonic,
        cri: Cri | None = None,
    ) -> None:
        self.roots = roots
        self.cri = cri or Cri(NEVER)
        self._mount = cgroup_mount
        self._clock = clock
        storage = self._storage = Storage(roots.storage)
        self._readers: Mapping[str, Callable[[str], Container | None]] = {
            "docker": lambda number: _first(read_docker, roots.docker, number),
            "containerd": lambda number: _first(read_containerd, roots.containerd, number),
            "cri-o": storage.read,
            "crun": lambda number: bare.read_crun(roots.crun, number),
            "runc": lambda number: bare.read_runc(roots.runc, number),
        }
        self.published = Published(roots.docker, roots.cni, roots.netavark).all
        """Ports of this host that lead into containers."""
        self._known: dict[str, Container] = {}
        """By the container's own cgroup path."""
        self._again_s: dict[str, float] = {}
        self._no_container: set[str] = set()
        self._made_by_others: set[str] = set()
        """Cgroups that users other than root could have made, at the time they were made. They remain even
        after the tree was taken back from the user."""

    def containing(self, path: str) -> Container | None:
        """The outermost container around a cgroup2 path; None if there is none."""
        own = self._own(path)
        return self._look_up(own) if own else None

    def at(self, path: str) -> Container | None:
        """The container whose own cgroup this is, if only root could have made the cgroup."""
        if self._own(path) != path:
            return None
        found = self._look_up(path)
        return found if self.only_root_makes(path) else None

    def unit_of(self, path: str) -> str:
        """The unit of this host for a cgroup2 path; "" if there is none."""
        own = self._own(path)
        ground = Ground(tops={own} if own else set())
        unit = ground.unit_of(path)
        if not unit:
            return ""
        components = path.split("/")
        own_cgroup = next(place for place, each in enumerate(components) if each.endswith(UNIT_SUFFIXES))
        return unit if self.only_root_makes("/".join(components[: own_cgroup + 1])) else ""

    @property
    def delegated(self) -> frozenset[str]:
        """Cgroups in which users other than root could make cgroups, and did."""
        return frozenset(path.rpartition("/")[0] or "/" for path in self._made_by_others)

    def appeared(self, path: str, *, by_root: bool = True) -> None:
        """Record that a cgroup was made at this path. Facts about an earlier cgroup of this path are
        dropped. by_root: whether root made it, as the kernel reported."""
        self._made_by_others.discard(path)
        if not by_root:
            if len(self._made_by_others) >= _MOST:
                self._made_by_others.clear()
            self._made_by_others.add(path)
        self._no_container.discard(path)
        self._known.pop(path, None)
        self._again_s.pop(path, None)

    def forget_all_but(self, paths: Collection[str]) -> None:
        for path in [path for path in self._known if path not in paths]:
            self._known.pop(path, None)
            self._again_s.pop(path, None)
        self._no_container &= set(paths)
        self._made_by_others &= set(paths)

    def _own(self, path: str) -> str:
        """The part of the path that is the outermost container's own cgroup; "" if there is none. A cgroup
        inside a container may have a name like that of another container."""
        in_path = container_in(path)
        if in_path and (below := self._below_a_pod(in_path.path, path)):
            return below
        own = ""
        for component in path.split("/")[1:]:
            own += f"/{component}"
            if (in_path and own == in_path.path) or own in self._known:
                return own
            if own in self._no_container:
                continue
            if self._is_bare(component):
                return own
            if len(self._no_container) >= _MOST:
                self._no_container.clear()
            self._no_container.add(own)
        return ""

    def _below_a_pod(self, pod: str, path: str) -> str:
        """The container's own cgroup, if the outermost one is a podman pod. With --cgroup-parent, a pod's
        path looks like a container's. Podman's state names the container's cgroup."""
        own = "/".join(path.split("/")[: pod.count("/") + 2])
        number = _IN_A_POD.fullmatch(own.removeprefix(f"{pod}/"))
        if not number or not _NUMBER.fullmatch(pod.rpartition("/")[2]):
            return ""
        return own if self._storage.cgroup_of(number[1]) == own and self.only_root_makes(own) else ""

    def _is_pod(self, path: str) -> bool:
        try:
            below = os.listdir(directory(self._mount, path))
        except OSError:
            return False
        return any(self._below_a_pod(path, f"{path}/{name}") for name in below if _IN_A_POD.fullmatch(name))

    def _is_bare(self, component: str) -> bool:
        number = bare.id_of(component)
        return any(bare.has_state(root, number) for root in (self.roots.crun, self.roots.runc))

    def _look_up(self, own: str) -> Container:
        known = self._known.get(own)
        if known and (known.known or self._clock() < self._again_s.get(own, 0.0)):
            return known
        found = self._read(own)
        if len(self._known) >= _MOST:
            self._known.clear()
            self._again_s.clear()
        if known != found:
            name = f"{found.runtime} {found.name} {found.image}" if found.known else "no name yet"
            log.debug("container %r: %r", own, name)
        self._known[own] = found
        self._again_s[own] = self._clock() + RETRY_S
        return found

    def _read(self, own: str) -> Container:
        leaf = own.rpartition("/")[2]
        top = container_in(own) or Top(own, bare.id_of(leaf), "")
        if top.path != own:  # the path is the pod's, which contains this container
            top = container_in(f"/{leaf}") or top
        if not self.only_root_makes(own):
            return Container(top.id, top.runtime)
        if top.name:
            return Container(top.id, top.runtime, top.name, known=True)
        # try the runtime that the path names first; with the cgroupfs driver the path names none
        order = sorted(self._readers, key=lambda name: name != top.runtime)
        found = next((one for name in order if (one := self._readers[name](top.id))), None)
        if not found and not top.runtime and self._is_pod(own):
            return Container(top.id, "podman", known=True)
        return found or self.cri.read(top.id) or Container(top.id, top.runtime)

    def only_root_makes(self, path: str) -> bool:
        """True if root made this cgroup and every one above it, and no other user owns or may write those
        above. Directories that no longer exist are skipped."""
        above = path
        while above:
            if above in self._made_by_others or made_by_others(self._mount, above):
                return False
            above = above.rpartition("/")[0]
            try:
                if others_may_make(os.stat(directory(self._mount, above))):
                    return False
            except OSError:
                continue
        return True
