"""An upgrade of what is in the kernel, while it goes on judging: this version's programs and maps are made
ready beside those in force, filled with the policy and with the rows of before, and then take their place.

No daemon may run meanwhile: who calls this holds the run lock. What an earlier process has begun is gone on
with."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.config import Settings
from agent.daemon.enforcement.packet_gate import PROGRAM, packet_gate
from agent.daemon.wiring.judging import judging
from agent.errors import KernelError, LicetError
from agent.kernel.loading import supervisor
from agent.kernel.loading.manifest import Manifest, manifest_path
from agent.kernel.pins import Pins
from agent.kernel.tables.names import forget_untold
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.kernel.upgrade import earlier_events, staging
from agent.kernel.upgrade.switch import Switch
from agent.observe.cgroup import find_mount
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.system import files

log = logging.getLogger(__name__)


def upgrade(
    settings: Settings, cgroup: Path, cgroup_mount: Path, reached: Callable[[str], None] = lambda step: None
) -> None:
    """`cgroup`: of the scope, where it is not known which one the programs are attached to. Raises
    LicetError: what was in force is, unless programs had begun to change places; then the next call goes
    on."""
    supervisor.require_root()
    pins = Pins(settings.paths.pins)
    begun = _begun(pins)
    if begun:
        _complete(settings, cgroup, _said(settings), reached)
        if not staging.is_of_another_version(settings):
            return
    before = pins.in_force()
    if before is None:
        pins.ready.clear()
        return
    try:
        made = staging.stage(settings, _attached_to(settings, cgroup), before)
        reached("staged")
        _make_ready(settings, cgroup_mount, before, made, reached)
    except BaseException as error:
        pins.ready.clear()
        if isinstance(error, OSError):
            raise KernelError(f"the upgrade was not begun: {error}; what was in force is") from error
        raise
    _complete(settings, cgroup, {**made, "before": before.folder}, reached)


def _begun(pins: Pins) -> bool:
    return any((pins.ready.base / step).exists() for step in ("switching", "finishing"))


def _attached_to(settings: Settings, cgroup: Path) -> Path:
    """A link can't move: another scope is taken after the upgrade."""
    manifest = Manifest.read(manifest_path(settings))
    known = Path(manifest.cgroup) if manifest else cgroup
    if manifest and known.is_dir() and known.stat().st_ino == manifest.cgroup_id:
        return known
    return cgroup


def _make_ready(
    settings: Settings,
    cgroup_mount: Path,
    before: Pins,
    made: Mapping[str, Any],
    reached: Callable[[str], None],
) -> None:
    pins = Pins(settings.paths.pins)
    _say(settings, {**made, "before": before.folder})
    switch = _switch(settings, before, made, lambda: None, reached)
    switch.refuse_losses()
    switch.copy()
    reached("copied")
    _install_policy(settings, pins.ready, cgroup_mount, switch.watch_cgroups)
    reached("policy")


def _complete(
    settings: Settings, cgroup: Path, made: Mapping[str, Any] | None, reached: Callable[[str], None]
) -> None:
    pins = Pins(settings.paths.pins)
    before = Pins(pins.root, made["before"]) if made else _oldest(pins)
    manifest = (made or {}).get("manifest") or {"cgroup": str(cgroup), "hooks": {}}
    filters = _filters(settings, pins.ready)
    layouts = (made or {}).get("events_before", {})
    switch = _switch(settings, before, {"manifest": manifest, "events_before": layouts}, filters, reached)
    try:
        switch.run()
        switch.finish()
        if made is None or "ring" in made["manifest"]["new_maps"]:
            _forget_untold(pins)
        if made:
            staging.write_manifests(settings, made)
    except OSError as error:
        raise KernelError(f"the upgrade stopped half way: {error}; the next start goes on with it") from error
    reached("finished")
    pins.ready.clear()
    _said_path(settings).unlink(missing_ok=True)


def _oldest(pins: Pins) -> Pins:
    """Which pins are those of before, where nobody knows any more: both are there while they are renamed."""
    *_, oldest = pins.versions() or [pins]
    return oldest


def _forget_untold(pins: Pins) -> None:
    """What waited in the ring of before is lost with it; names are told again."""
    names = pins.open_map("names")
    forget_untold(names)
    names.close()


def _switch(
    settings: Settings,
    before: Pins,
    made: Mapping[str, Any],
    replace_filters: Callable[[], None],
    reached: Callable[[str], None],
) -> Switch:
    pins = Pins(settings.paths.pins)
    return Switch(
        before,
        pins.ready,
        pins,
        Path(made["manifest"]["cgroup"]),
        made["manifest"]["hooks"].get("accept", "none"),
        replace_filters,
        lambda: earlier_events.carry(
            before, pins.ready, made["events_before"], earlier_events.kept_in(settings.paths.run)
        ),
        reached,
    )


def _install_policy(
    settings: Settings, ready: Pins, cgroup_mount: Path, watch_cgroups: Callable[[], None]
) -> None:
    """The policy, compiled by this version for its own programs. None where there never was one.

    Raises LicetError: by a policy that is refused, the programs of before go on."""
    with contextlib.closing(PolicyMaps(ready)) as maps:
        generation = maps.generation
    if not generation:
        watch_cgroups()
        return
    by = judging(settings, ready, cgroup_mount)
    keeper = by.keeper
    try:
        keeper.start()
    except LicetError as error:
        raise KernelError(
            f"this version was not put in force, what judged goes on: its policy is refused: {error}"
        ) from error
    by.program_settings.tell()
    watch_cgroups()
    known = keeper.facts.cgroups if keeper.facts else {}
    for path, number in by.attributor.read_cgroups().items():
        if known.get(path) != number:
            keeper.cgroup_made(number, path, by_root=by.containers.only_root_makes(path))
    if keeper.facts:
        by.listening.look(keeper.policy, keeper.facts)


def _filters(settings: Settings, ready: Pins) -> Callable[[], None]:
    """What replaces the tc filters, if there are any; all that takes time is done before."""
    if not ready.program(PROGRAM).exists():
        return lambda: None  # or, where that is done, only pins are left to be renamed
    with contextlib.closing(PolicyMaps(ready)) as maps:
        gates = maps.gates
    if "tc" not in gates:
        return lambda: None
    reader = ProcReader(settings.paths.proc, cgroup_mount=find_mount())
    namespaces = Namespaces(reader, settings.scope.namespaces)
    gate = packet_gate(settings, ready)

    def replace() -> None:
        gate.sync(namespaces.all())
        for place, why in gate.failed().items():
            log.warning("%s: the tc filter of the version before stays: %s", place.interface, why)

    return replace


def _said_path(settings: Settings) -> Path:
    return settings.paths.run / "next.json"


def _say(settings: Settings, made: Mapping[str, Any]) -> None:
    files.write_text(_said_path(settings), json.dumps(made))


def _said(settings: Settings) -> dict[str, Any] | None:
    """What is ready; None: not known any more."""
    try:
        said: dict[str, Any] = files.read_json(_said_path(settings))
    except (OSError, ValueError):
        return None
    return said
