"""An upgrade of the programs in the kernel, while they go on judging.

This version's programs and maps are staged beside those in force. They are filled with the policy and with
the earlier version's rows, and then replace the old ones.

No daemon may run meanwhile, so the caller must hold the run lock. An upgrade that an earlier process began is
continued."""

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
    """Upgrade the programs. `cgroup` is the scope's, used if the programs' own cgroup is not known.

    Raises LicetError: the earlier version then is in force, unless the switch of programs had begun. The next
    call then continues it."""
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
            raise KernelError(
                f"the upgrade was not begun: {error}; the version before stays in force"
            ) from error
        raise
    _complete(settings, cgroup, {**made, "before": before.folder}, reached)


def _begun(pins: Pins) -> bool:
    return any((pins.ready.base / step).exists() for step in ("switching", "finishing"))


def _attached_to(settings: Settings, cgroup: Path) -> Path:
    """The cgroup the programs are attached to. A link cannot move, so another scope is applied after the
    upgrade."""
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
    """The earlier version's pins if no record of them is left: both versions' pins exist during the
    rename."""
    *_, oldest = pins.versions() or [pins]
    return oldest


def _forget_untold(pins: Pins) -> None:
    """Make programs report names again, because the reports in the earlier ring are lost with it."""
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
    """Install the policy, compiled by this version for its own programs; without a policy, nothing.

    Raises LicetError if the policy is refused: then the earlier version's programs go on."""
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
            f"the version before stays in force, because this version refuses the policy: {error}"
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
    """A function that replaces the tc filters, if there are any. Everything that takes time is done before it
    is called."""
    if not ready.program(PROGRAM).exists():
        return lambda: None  # or the filters are replaced already, and only pins are left to be renamed
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
    """The record of the staged version, or None if it is missing."""
    try:
        said: dict[str, Any] = files.read_json(_said_path(settings))
    except (OSError, ValueError):
        return None
    return said
