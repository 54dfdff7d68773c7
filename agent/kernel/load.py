"""`licet load` and `licet unload`: starts the loader child, keeps its manifest."""

from __future__ import annotations

import contextlib
import ctypes as ct
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import Settings
from agent.errors import KernelError, PinError
from agent.kernel.pins import ABI_VERSION, PINNED_MAPS, Pins
from agent.kernel.source import GATES, HEADERS, bpf_folder, joined, source_hash

SYSTEM_PYTHON = "/usr/bin/python3"
BPFFS = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h
_LOADER_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the loader did; kept as JSON in the run directory."""

    source: str
    cgroup: str
    cgroup_id: int
    hooks: dict[str, str]
    refused_rungs: dict[str, str]
    kernel: str
    bcc: str
    load_s: float
    abi: int = ABI_VERSION
    new_maps: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """None: there is none, or not one of this version's."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None


def manifest_path(settings: Settings) -> Path:
    return settings.paths.run / "manifest.json"


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
        raise KernelError("licet loads kernel programs: run it as root")


def loader_python() -> str:
    """This Python where it sees bcc, else the distribution's (a package's own environment has none)."""
    return sys.executable if importlib.util.find_spec("bcc") else SYSTEM_PYTHON


def is_current(settings: Settings, cgroup: Path) -> bool:
    """Are the pins there, whole, made from this source, and attached to this cgroup?"""
    manifest = Manifest.read(manifest_path(settings))
    if manifest is None or not cgroup.exists():
        return False
    pins = Pins(settings.paths.pins)
    wanted = source_hash(joined(bpf_folder()), [settings.acceptor])
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
    job = _job(settings) | {
        "cgroup": str(cgroup),
        "acceptor": settings.acceptor,
        "moved": before is not None and before.cgroup_id != cgroup.stat().st_ino,
    }
    manifest = Manifest(**_run_loader(job))
    manifest_path(settings).write_text(json.dumps(_as_json(manifest), indent=1), encoding="utf-8")
    return manifest


def gates_path(settings: Settings) -> Path:
    return settings.paths.run / "gates.json"


def load_gates(settings: Settings) -> dict[str, str]:
    """Loads and pins the gates, if these are not pinned yet; attaches nothing. Why each that is missing is.

    Raises KernelError or PinError."""
    wanted = source_hash(joined(bpf_folder(), (*HEADERS, *GATES)), [])
    programs = set(Pins(settings.paths.pins).programs())
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        known = json.loads(gates_path(settings).read_text(encoding="utf-8"))
        if known["source"] == wanted and programs >= set(known["programs"]):
            return dict(known["refused"])
    refused: dict[str, str] = _run_loader(_job(settings), "agent.kernel.gate_loader")["refused"]
    pinned = [name for name in Pins(settings.paths.pins).programs() if name.startswith("refuse_")]
    text = json.dumps({"source": wanted, "programs": pinned, "refused": refused})
    gates_path(settings).write_text(text, encoding="utf-8")
    return refused


def _as_json(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}


def _job(settings: Settings) -> dict[str, Any]:
    """What both loaders are told."""
    return {
        "pins": str(settings.paths.pins),
        "bpf": str(bpf_folder()),
        "programs": str(settings.paths.programs),
    }


def _run_loader(job: dict[str, Any], module: str = "agent.kernel.loader") -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(bpf_folder().parent)}
    try:
        child = subprocess.run(
            # -P: what lies in the folder that licet is called from is not imported
            [loader_python(), "-P", "-m", module],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=_LOADER_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"the loader did not finish: {error}") from error
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise KernelError(f"the loader died (exit code {child.returncode}): {_tail(child.stderr)}") from None
    if "error" in answer:
        kind = PinError if answer.get("kind") == "PinError" else KernelError
        said = _tail(child.stderr) if kind is KernelError else ""
        raise kind(answer["error"] + (f" [{said}]" if said else ""))
    return answer


def _tail(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-600:]


def unload(settings: Settings, *, all_versions: bool = False) -> None:
    """Lets go of every program and map of this agent. Fine where nothing is loaded."""
    require_root()
    Pins(settings.paths.pins).remove(all_versions=all_versions)
    manifest_path(settings).unlink(missing_ok=True)
    gates_path(settings).unlink(missing_ok=True)
