"""`licet load` and `licet unload`: starts the loader child, keeps its manifest."""

from __future__ import annotations

import contextlib
import ctypes as ct
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.abi import event_layouts
from agent.config import Settings
from agent.errors import KernelError, PinError
from agent.kernel.compile.source import DATAGRAMS, GATES, HEADERS, bpf_folder, joined, source_hash
from agent.kernel.pins import ABI_VERSION, PINNED_MAPS, Pins
from agent.system import files

SYSTEM_PYTHON = "/usr/bin/python3"
OBSERVERS_LOADER = "agent.kernel.loading.observers"
GATES_LOADER = "agent.kernel.loading.gates"
STAGE = "agent.kernel.upgrade.stage"
"""Modules that run in a process of their own."""
BPFFS = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h
_LOADER_TIMEOUT_S = 600
_STAGE_TIMEOUT_S = 900
"""It compiles everything, and the kernel goes on judging meanwhile: on a slow host it may take its time."""
LOADED_WITHIN_S = _STAGE_TIMEOUT_S + _LOADER_TIMEOUT_S
"""What a start waits for at most."""
EVENTS_OF_ABI = Path(__file__).parents[1] / "upgrade"
"""Has the layouts of events of versions whose manifest does not: events_of_abi_1.json."""


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
    code: str = ""
    """As source, whatever the settings."""
    events: dict[str, Any] | None = None
    """Of abi.event_layouts(), when it was loaded."""
    new_maps: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """None: there is none, or not one of this version's."""
        try:
            return cls(**files.read_json(path))
        except (OSError, ValueError, TypeError):
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
    job = _job(settings) | {
        "cgroup": str(cgroup),
        "acceptor": settings.acceptor,
        "moved": before is not None and before.cgroup_id != cgroup.stat().st_ino,
    }
    manifest = Manifest(**_run_loader(job))
    _note(manifest_path(settings), json.dumps(_as_json(manifest), indent=1))
    return manifest


def needs_upgrade(settings: Settings) -> bool:
    """Is another version's in force, or has an upgrade begun? Raises PinError where a later version is
    loaded."""
    return Pins(settings.paths.pins).ready.base.exists() or is_of_another_version(settings)


def is_of_another_version(settings: Settings) -> bool:
    """Is what is loaded made from another source than this version's? Raises PinError where it is a later
    version's."""
    in_force = Pins(settings.paths.pins).in_force()
    if in_force is None:
        return False
    manifest = Manifest.read(manifest_path(settings))
    code = source_hash(joined(bpf_folder()), [], bpf_folder())
    return in_force.folder != str(ABI_VERSION) or manifest is None or manifest.code != code


def stage(settings: Settings, cgroup: Path, before: Pins) -> dict[str, Any]:
    """Makes this version ready in <pins>/next beside `before`; what was there is cleared. See
    agent.kernel.upgrade.stage.run for the answer, and what is raised: then nothing is left there."""
    require_root()
    ready = before.ready
    ready.clear()
    known = Manifest.read(manifest_path(settings))
    events = (known.events if known else None) or _events_of(before)
    job = _job(settings) | {
        "cgroup": str(cgroup),
        "acceptor": settings.acceptor,
        "before": before.folder,
        "same_events": events == event_layouts(),
    }
    try:
        return {
            **_run_loader(job, STAGE, _STAGE_TIMEOUT_S),
            "gates": _hash_of(GATES),
            "events_before": events,
        }
    except BaseException:
        ready.clear()
        raise


def _events_of(before: Pins) -> dict[str, Any]:
    try:
        text = (EVENTS_OF_ABI / f"events_of_abi_{before.folder}.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    layouts: dict[str, Any] = json.loads(text)
    return layouts


def write_manifests(settings: Settings, made: Mapping[str, Any]) -> None:
    """`made`: what stage() answered, once its programs are in force."""
    _note_unit(gates_path(settings), made["gates"], made)
    _note(manifest_path(settings), json.dumps(made["manifest"], indent=1))


def gates_path(settings: Settings) -> Path:
    return settings.paths.run / "gates.json"


def load_gates(settings: Settings) -> dict[str, str]:
    """Loads and pins the gates, if these are not pinned yet; attaches nothing. Why each that is missing is.

    Raises KernelError or PinError."""
    return _load_unit(settings, "gates", GATES, gates_path(settings))


def datagrams_path(settings: Settings) -> Path:
    return settings.paths.run / "datagrams.json"


def load_datagrams(settings: Settings) -> dict[str, str]:
    """The same of what watches datagrams, once gates or observers are loaded."""
    return _load_unit(settings, "datagrams", DATAGRAMS, datagrams_path(settings))


def _load_unit(settings: Settings, unit: str, sources: tuple[str, ...], noted: Path) -> dict[str, str]:
    wanted = _hash_of(sources)
    programs = set(Pins(settings.paths.pins).programs())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = files.read_json(noted)
        if known["source"] == wanted and programs >= set(known["programs"]):
            return dict(known["refused"])
    job = _job(settings) | {"unit": unit}
    made = _run_loader(job, GATES_LOADER)
    _note_unit(noted, wanted, made)
    return dict(made["refused"])


def _hash_of(sources: tuple[str, ...]) -> str:
    """Of a unit that is compiled beside the observers."""
    return source_hash(joined(bpf_folder(), (*HEADERS, *sources)), [], bpf_folder())


def _note_unit(noted: Path, source: str, made: Mapping[str, Any]) -> None:
    text = json.dumps({"source": source, "programs": made["programs"], "refused": made["refused"]})
    _note(noted, text)


def _note(path: Path, text: str) -> None:
    """In one step, whatever lies there. Raises KernelError."""
    try:
        files.write_text(path, text)
    except OSError as error:
        raise KernelError(
            f"{path}: cannot be written: {error.strerror}; make room, or remove what lies there"
        ) from error


def _as_json(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}


def _job(settings: Settings) -> dict[str, Any]:
    """What both loaders are told."""
    return {
        "pins": str(settings.paths.pins),
        "bpf": str(bpf_folder()),
        "programs": str(settings.paths.programs),
    }


def _run_loader(
    job: dict[str, Any], module: str = OBSERVERS_LOADER, timeout_s: float = _LOADER_TIMEOUT_S
) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(bpf_folder().parent)}
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
