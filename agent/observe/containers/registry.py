"""Which container a cgroup is, with its name: looked up once, remembered until the cgroup is gone."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.model import Container
from agent.observe.cgroup import directory
from agent.observe.containers import bare
from agent.observe.containers.containerd import read_containerd
from agent.observe.containers.cri import NEVER, Cri
from agent.observe.containers.docker import read_docker
from agent.observe.containers.storage import Storage
from agent.policy.cgroups import container_in

RETRY_S = 0.1
"""A name that was not there is looked for again after this long."""
_MOST = 65536
"""Cgroups remembered; a host has some thousands."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Where runtimes keep their state."""

    containerd: Path
    docker: Path
    storage: tuple[Path, ...]
    """Of CRI-O and podman: bundles, and the list of names."""
    crun: Path
    runc: Path

    def found(self) -> dict[str, str]:
        """By runtime, the folders that are there; "" where none is."""
        places = {
            "containerd": (self.containerd,),
            "docker": (self.docker,),
            "cri-o, podman": self.storage,
            "crun": (self.crun,),
            "runc": (self.runc,),
        }
        return {
            name: ", ".join(str(path) for path in paths if path.is_dir()) for name, paths in places.items()
        }


class Containers:
    """Safe to ask from several threads: what is remembered is only ever replaced by the same or better.

    A cgroup gives a name away only if nobody without privilege could have made it: in a tree that was
    delegated to a user, any directory may have any name."""

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
        storage = Storage(roots.storage)
        self._readers: Mapping[str, Callable[[str], Container | None]] = {
            "docker": lambda number: read_docker(roots.docker, number),
            "containerd": lambda number: read_containerd(roots.containerd, number),
            "cri-o": storage.read,
            "crun": lambda number: bare.read_crun(roots.crun, number),
            "runc": lambda number: bare.read_runc(roots.runc, number),
        }
        self._known: dict[str, Container] = {}
        """By the cgroup path that is the container's own."""
        self._again_s: dict[str, float] = {}
        self._no_container: set[str] = set()

    def containing(self, path: str) -> Container | None:
        """The outermost container that a cgroup2 path lies in; None if in none."""
        own = self._own(path)
        return self._look_up(own) if own else None

    def at(self, path: str) -> Container | None:
        """The container whose own cgroup this is, and which could have been made only with privilege."""
        if self._own(path) != path:
            return None
        found = self._look_up(path)
        return found if self._only_root_makes(path) else None

    def appeared(self, path: str) -> None:
        """A cgroup was made at this path: what stood there before says nothing about it."""
        self._no_container.discard(path)
        self._again_s.pop(path, None)

    def forget_all_but(self, paths: Collection[str]) -> None:
        for path in [path for path in self._known if path not in paths]:
            self._known.pop(path, None)
            self._again_s.pop(path, None)
        self._no_container &= set(paths)

    def _own(self, path: str) -> str:
        """The part of the path that is the container's own cgroup; "" if there is none."""
        if found := container_in(path):
            return found[0]
        own = ""
        for component in path.split("/")[1:]:
            own += f"/{component}"
            if own in self._known:
                return own
            if own in self._no_container:
                continue
            if self._is_bare(component):
                return own
            if len(self._no_container) >= _MOST:
                self._no_container.clear()
            self._no_container.add(own)
        return ""

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
        self._known[own] = found
        self._again_s[own] = self._clock() + RETRY_S
        return found

    def _read(self, own: str) -> Container:
        in_path = container_in(own)
        _, number, runtime = in_path or (own, bare.id_of(own.rpartition("/")[2]), "")
        if not self._only_root_makes(own):
            return Container(number, runtime)
        # the one that the path names first; containers of the cgroupfs driver do not say whose they are
        order = sorted(self._readers, key=lambda name: name != runtime)
        found = next((one for name in order if (one := self._readers[name](number))), None)
        return found or self.cri.read(number) or Container(number, runtime)

    def _only_root_makes(self, path: str) -> bool:
        """True if every directory above belongs to root, and nobody else may write there."""
        above = path.rpartition("/")[0]
        while True:
            try:
                status = os.stat(directory(self._mount, above))
            except OSError:
                return False
            if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return False
            if not above:
                return True
            above = above.rpartition("/")[0]
