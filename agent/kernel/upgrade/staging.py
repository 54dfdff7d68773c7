"""Starts the child that stages this version beside the one in force (agent.kernel.upgrade.stage)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.abi import event_layouts
from agent.config import Settings
from agent.kernel.compile.source import GATES, bpf_folder, joined, source_hash
from agent.kernel.loading.manifest import Manifest, gates_path, manifest_path, note_unit
from agent.kernel.loading.supervisor import STAGE_TIMEOUT_S, hash_of, job_of, require_root, run_loader
from agent.kernel.pins import ABI_VERSION, Pins

STAGE = "agent.kernel.upgrade.stage"
EVENTS_OF_ABI = Path(__file__).parent
"""The folder of event layouts for versions whose manifest lacks them: events_of_abi_1.json."""


def needs_upgrade(settings: Settings) -> bool:
    """True if another version is in force, or if an upgrade has begun. Raises PinError where a later version
    is loaded."""
    return Pins(settings.paths.pins).ready.base.exists() or is_of_another_version(settings)


def is_of_another_version(settings: Settings) -> bool:
    """True if the loaded programs were made from another source than this version's. Raises PinError where a
    later version is loaded."""
    in_force = Pins(settings.paths.pins).in_force()
    if in_force is None:
        return False
    manifest = Manifest.read(manifest_path(settings))
    code = source_hash(joined(bpf_folder()), [], bpf_folder())
    return in_force.folder != str(ABI_VERSION) or manifest is None or manifest.code != code


def stage(settings: Settings, cgroup: Path, before: Pins) -> dict[str, Any]:
    """Stage this version in <pins>/next beside `before`; earlier pins in <pins>/next are deleted first.
    agent.kernel.upgrade.stage.run describes the answer and the errors. After an error, <pins>/next is
    empty."""
    require_root()
    ready = before.ready
    ready.clear()
    known = Manifest.read(manifest_path(settings))
    events = (known.events if known else None) or _events_of(before)
    job = job_of(settings) | {
        "cgroup": str(cgroup),
        "acceptor": settings.acceptor,
        "before": before.folder,
        "same_events": events == event_layouts(),
    }
    try:
        return {
            **run_loader(job, STAGE, STAGE_TIMEOUT_S),
            "gates": hash_of(GATES),
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
    """Write the manifests, once the staged programs are in force. `made`: the answer of stage()."""
    note_unit(gates_path(settings), made["gates"], made)
    Manifest(**made["manifest"]).write(manifest_path(settings))
