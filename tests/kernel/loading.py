"""Loading into a laboratory: a cgroup and a pin directory of the test's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from agent.config import Paths, Settings
from agent.kernel.loading import supervisor
from agent.kernel.loading.manifest import Manifest, manifest_path
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.system import bpf_map, libbpf
from tests.fixtures import cgroups
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import BPFFS, KEPT, pins_in, remove_pins


@dataclass(frozen=True, slots=True)
class Loading:
    """What `licet load` is told."""

    lab: Lab
    settings: Settings
    cgroup: Path

    @property
    def pins(self) -> Pins:
        return Pins(self.settings.paths.pins)

    @property
    def manifest_path(self) -> Path:
        return manifest_path(self.settings)

    def load(self, acceptor: str = "") -> Manifest:
        changed = self.settings.model_copy(update={"acceptor": acceptor} if acceptor else {})
        return supervisor.load(changed, self.cgroup)

    def config(self) -> Path:
        """The same as a file for commands."""
        settings = self.settings
        fields = {
            "scope": {"cgroup": self.lab.scope},
            "paths": {name: str(path) for name, path in settings.paths},
            "acceptor": settings.acceptor,
        }
        written = self.lab.directory / "config.yaml"
        written.write_text(yaml.safe_dump(fields))
        return written

    def unload(self) -> None:
        supervisor.unload(self.settings)

    def outbound(self) -> int:
        """Unprotected connections counted so far."""
        with closing(Counters(self.pins)) as counters:
            return counters.unprotected()["outbound"]

    def links(self) -> dict[str, tuple[int, int]]:
        """(link id, program id) of every pinned link."""
        return {name: _link(self.pins.link(name)) for name in self.pins.links()}

    def maps(self) -> dict[str, int]:
        """Map id of every pinned map."""
        return {path.name: _map_id(path) for path in sorted((self.pins.base / "maps").iterdir())}

    def left(self) -> list[Path]:
        root = self.settings.paths.pins
        return pins_in(root) if root.exists() else []


def call_hiding(hide: str, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    """What came of a command in a mount namespace of its own, where the shell's `hide` was done before."""
    script = f'{hide} && exec "$@"'
    own = ["unshare", "--mount", "sh", "-c", script, "sh"]
    return subprocess.run([*own, *argv], capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def loading_in(lab: Lab) -> Iterator[Loading]:
    pins = BPFFS / lab.scope.strip("/")
    paths = Paths(pins=pins, run=lab.directory / "run", state=lab.directory / "state", programs=KEPT)
    try:
        yield Loading(lab, Settings(paths=paths, acceptor="never"), cgroups.directory(lab.scope))
    finally:
        remove_pins(pins)


def _link(path: Path) -> tuple[int, int]:
    fd = libbpf.open_pin(path)
    try:
        # struct bpf_link_info starts as bpf_map_info does: type, id; then the program's id
        info = bpf_map.map_info(fd)
    finally:
        os.close(fd)
    return info.id, info.key_size


def _map_id(path: Path) -> int:
    fd = libbpf.open_pin(path)
    try:
        return int(bpf_map.map_info(fd).id)
    finally:
        os.close(fd)


def map_of_program(pins: Pins, program: str, name: str) -> bpf_map.Map:
    """One that is not pinned, by the first 15 bytes of its name."""
    fd, info, numbers = libbpf.open_pin(pins.program(program)), libbpf.ProgramInfo(), (ctypes.c_uint32 * 64)()
    info.nr_map_ids, info.map_ids = len(numbers), ctypes.addressof(numbers)
    size = ctypes.c_uint32(ctypes.sizeof(info))
    asked = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_obj_get_info_by_fd
    failed = asked(fd, ctypes.byref(info), ctypes.byref(size))
    os.close(fd)
    if failed:
        raise OSError(ctypes.get_errno(), f"maps of {program}")
    for number in numbers[: info.nr_map_ids]:
        found = map_by_id(number)
        if bpf_map.map_info(found).name == name.encode():
            return bpf_map.Map.from_fd(found, name)
        os.close(found)
    raise LookupError(f"{program} has no map {name}")


def map_by_id(number: int) -> int:
    """A new fd of the map with this id."""
    fd = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_map_get_fd_by_id(number)
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"open map {number}")
    return int(fd)
