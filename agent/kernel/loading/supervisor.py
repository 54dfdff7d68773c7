"""`licet load` and `licet unload`: starts the loading children, keeps what they answer."""

from __future__ import annotations

import contextlib
import ctypes as ct
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent.config import Settings
from agent.errors import KernelError, PinError
from agent.kernel.compile.source import DATAGRAMS, GATES, HEADERS, bpf_folder, joined, source_hash
from agent.kernel.loading.manifest import Manifest, datagrams_path, gates_path, manifest_path, note_unit
from agent.kernel.pins import PINNED_MAPS, Pins
from agent.system import files

log = logging.getLogger(__name__)

SYSTEM_PYTHON = "/usr/bin/python3"
OBSERVERS_LOADER = "agent.kernel.loading.observers"
GATES_LOADER = "agent.kernel.loading.gates"
"""Modules that run in a process of their own."""
BPFFS = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h
_LOADER_TIMEOUT_S = 600
STAGE_TIMEOUT_S = 900
"""It compiles everything, and the kernel goes on judging meanwhile: on a slow host it may take its time."""
LOADED_WITHIN_S = STAGE_TIMEOUT_S + _LOADER_TIMEOUT_S
"""What a start waits for at most."""


def _libc() -> ct.CDLL:
    return ct.CDLL(None, use_errno=True)


def is_bpffs(path: Path) -> bool:
    """Is this path, or the nearest part of it that exists, on a BPF file system?"""
    while not path.exists():
        path = path.parent
    buffer = ct.create_string_buffer(256)
    _libc().statfs(os.fsencode(path), buffer)
    return ct.c_long.from_buffer(buffer).value == _BPF_FS_MAGIC


def ensure_bpffs(pins: Path) -> None:
    """Mounts bpffs at its usual place where nobody has yet, as systemd would."""
    if is_bpffs(pins):
        return
    if pins.is_relative_to(BPFFS) and BPFFS.is_dir():
        _libc().mount(b"bpf", os.fsencode(BPFFS), b"bpf", 0, None)
        if is_bpffs(pins):
            return
    raise KernelError(f"{pins}: not on a BPF file system; mount one: mount -t bpf bpf {BPFFS}")


def require_root() -> None:
    if os.geteuid() != 0:
        raise KernelError("only root may load, look at or let go of kernel programs: run it as root")


def loader_python() -> str:
    """This Python where it sees bcc, else the distribution's (a package's own environment has none)."""
    return sys.executable if importlib.util.find_spec("bcc") else SYSTEM_PYTHON


def is_current(settings: Settings, cgroup: Path) -> bool:
    """Are the pins there, whole, made from this source, and attached to this cgroup?"""
    manifest = Manifest.read(manifest_path(settings))
    if manifest is None or not cgroup.exists():
        return False
    pins = Pins(settings.paths.pins)
    wanted = source_hash(joined(bpf_folder()), [settings.acceptor], bpf_folder())
    return (
        manifest.source == wanted
        and manifest.cgroup_id == cgroup.stat().st_ino
        and all(pins.map(name).exists() for name in PINNED_MAPS)
        and {"track_flows", "observe_connect4", "observe_connect6", "cgroup_mkdir"} <= set(pins.links())
    )


def load(settings: Settings, cgroup: Path) -> Manifest:
    """Loads, attaches and pins the programs on `cgroup` and below; takes over what is pinned already.

    Raises KernelError or PinError; what was in force before is then still in force."""
    require_root()
    if not cgroup.is_dir():
        raise KernelError(f"{cgroup}: no such cgroup; see scope.cgroup in the configuration")
    ensure_bpffs(settings.paths.pins)
    settings.paths.run.mkdir(parents=True, exist_ok=True)
    before = Manifest.read(manifest_path(settings))
    job = job_of(settings) | {
        "cgroup": str(cgroup),
        "acceptor": settings.acceptor,
        "moved": before is not None and before.cgroup_id != cgroup.stat().st_ino,
    }
    manifest = Manifest(**run_loader(job))
    manifest.write(manifest_path(settings))
    return manifest


def load_gates(settings: Settings) -> dict[str, str]:
    """Loads and pins the gates, if these are not pinned yet; attaches nothing. Why each that is missing is.

    Raises KernelError or PinError."""
    return _load_unit(settings, "gates", GATES, gates_path(settings))


def load_datagrams(settings: Settings) -> dict[str, str]:
    """The same of what watches datagrams, once gates or observers are loaded."""
    return _load_unit(settings, "datagrams", DATAGRAMS, datagrams_path(settings))


def _load_unit(settings: Settings, unit: str, sources: tuple[str, ...], noted: Path) -> dict[str, str]:
    wanted = hash_of(sources)
    programs = set(Pins(settings.paths.pins).programs())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = files.read_json(noted)
        if known["source"] == wanted and programs >= set(known["programs"]):
            return dict(known["refused"])
    log.debug("loader: %s are not loaded from this source yet", unit)
    job = job_of(settings) | {"unit": unit}
    made = run_loader(job, GATES_LOADER)
    note_unit(noted, wanted, made)
    return dict(made["refused"])


def hash_of(sources: tuple[str, ...]) -> str:
    """Of a unit that is compiled beside the observers."""
    return source_hash(joined(bpf_folder(), (*HEADERS, *sources)), [], bpf_folder())


def job_of(settings: Settings) -> dict[str, Any]:
    """What both loaders are told."""
    return {
        "pins": str(settings.paths.pins),
        "bpf": str(bpf_folder()),
        "programs": str(settings.paths.programs),
    }


def run_loader(
    job: dict[str, Any], module: str = OBSERVERS_LOADER, timeout_s: float = _LOADER_TIMEOUT_S
) -> dict[str, Any]:
    """Starts a child with `job` on stdin; its answer. Raises KernelError with the child's own words."""
    environment = {**os.environ, "PYTHONPATH": str(bpf_folder().parent)}
    began_s = time.monotonic()
    log.debug("loader: starting %s with %s", module, loader_python())
    try:
        child = subprocess.run(
            # -P: what lies in the folder that licet is called from is not imported
            [loader_python(), "-P", "-m", module],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"the loader did not finish: {error}") from error
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise KernelError(f"the loader died (exit code {child.returncode}): {_tail(child.stderr)}") from None
    took_s = time.monotonic() - began_s
    log.debug("loader: %s ended after %.1f s: %s", module, took_s, answer.get("error") or "loaded")
    if "error" in answer:
        kind = PinError if answer.get("kind") == "PinError" else KernelError
        said = _tail(child.stderr) if kind is KernelError else ""
        raise kind(answer["error"] + (f" [{said}]" if said else ""))
    return answer


def _tail(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-600:]


def unload(settings: Settings, *, all_versions: bool = False) -> dict[str, int]:
    """Lets go of every program and map of this agent; says how many links, programs and maps there were.
    Fine where nothing is loaded."""
    require_root()
    removed = Pins(settings.paths.pins).remove(all_versions=all_versions)
    ours = (manifest_path(settings), gates_path(settings), datagrams_path(settings))
    for path in (*ours, *(settings.paths.run / name for name in ("next.json", "earlier-events", "ids.json"))):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a directory is nobody's of ours
            path.unlink()
    return removed
