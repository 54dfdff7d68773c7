"""`licet load` and `licet unload`: starts the loading children and stores their answers."""

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
"""Each loader module runs in its own process."""
BPFFS = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h
_LOADER_TIMEOUT_S = 600
STAGE_TIMEOUT_S = 900
"""The stage child compiles everything, which takes long on a slow host. The kernel goes on judging
meanwhile."""
LOADED_WITHIN_S = STAGE_TIMEOUT_S + _LOADER_TIMEOUT_S
"""The longest time for which a start waits."""


def _libc() -> ct.CDLL:
    return ct.CDLL(None, use_errno=True)


def is_bpffs(path: Path) -> bool:
    """True if this path, or its nearest existing parent, is on a BPF file system."""
    while not path.exists():
        path = path.parent
    buffer = ct.create_string_buffer(256)
    _libc().statfs(os.fsencode(path), buffer)
    return ct.c_long.from_buffer(buffer).value == _BPF_FS_MAGIC


def ensure_bpffs(pins: Path) -> None:
    """Mount bpffs at its usual place if it is not mounted yet, as systemd does."""
    if is_bpffs(pins):
        return
    if pins.is_relative_to(BPFFS) and BPFFS.is_dir():
        _libc().mount(b"bpf", os.fsencode(BPFFS), b"bpf", 0, None)
        if is_bpffs(pins):
            return
    raise KernelError(f"{pins}: not on a BPF file system; mount one: mount -t bpf bpf {BPFFS}")


def require_root() -> None:
    if os.geteuid() != 0:
        raise KernelError("only root may load, read or unload kernel programs: run it as root")


def loader_python() -> str:
    """This Python if it can import bcc, else the distribution's (a package's own environment has no bcc)."""
    return sys.executable if importlib.util.find_spec("bcc") else SYSTEM_PYTHON


def is_current(settings: Settings, cgroup: Path) -> bool:
    """True if all pins exist, were made from this source and are attached to this cgroup."""
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
    """Load, attach and pin the programs on `cgroup` and below; adopt maps that are pinned already.

    Raises KernelError or PinError. The programs in force before then stay in force."""
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
    """Load and pin the gates, unless they are pinned already; attach nothing. By missing gate: the reason.

    Raises KernelError or PinError."""
    return _load_unit(settings, "gates", GATES, gates_path(settings))


def load_datagrams(settings: Settings) -> dict[str, str]:
    """Like load_gates(), for the datagram programs. The observers must be loaded."""
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
    """The source hash of a unit that is compiled separately from the observers."""
    return source_hash(joined(bpf_folder(), (*HEADERS, *sources)), [], bpf_folder())


def job_of(settings: Settings) -> dict[str, Any]:
    """The part of the job that both loaders need."""
    return {
        "pins": str(settings.paths.pins),
        "bpf": str(bpf_folder()),
        "programs": str(settings.paths.programs),
    }


def run_loader(
    job: dict[str, Any], module: str = OBSERVERS_LOADER, timeout_s: float = _LOADER_TIMEOUT_S
) -> dict[str, Any]:
    """Start a child with `job` on stdin; its answer. Raises KernelError with the child's message."""
    environment = {**os.environ, "PYTHONPATH": str(bpf_folder().parent)}
    began_s = time.monotonic()
    log.debug("loader: starting %s with %s", module, loader_python())
    try:
        child = subprocess.run(
            # -P: import nothing from the working directory
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
    """Unload every program and map of this agent; return how many links, programs and maps were pinned.
    Succeeds where nothing is loaded."""
    require_root()
    removed = Pins(settings.paths.pins).remove(all_versions=all_versions)
    ours = (manifest_path(settings), gates_path(settings), datagrams_path(settings))
    for path in (*ours, *(settings.paths.run / name for name in ("next.json", "earlier-events", "ids.json"))):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # licet makes no such directory
            path.unlink()
    return removed
