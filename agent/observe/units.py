"""Explains why a unit that a policy names has no process, although systemd may call it active."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.observe.cgroup import processes_in
from agent.policy.terms.cgroups import unit_of

FOLDERS = (
    Path("/etc/systemd/system"),
    Path("/run/systemd/system"),
    Path("/run/systemd/generator"),
    Path("/usr/local/lib/systemd/system"),
    Path("/usr/lib/systemd/system"),
    Path("/lib/systemd/system"),
)
"""systemd.unit(5): the first directory that has the unit counts."""


def units_at_rest(
    names: Iterable[str], cgroups: Iterable[str], mount: Path, folders: tuple[Path, ...] = FOLDERS
) -> dict[str, str]:
    """By unit: why no process is in it. Units with a process, and unknown units, are left out."""
    found: dict[str, str] = {}
    places: dict[str, list[str]] = {}
    for path in cgroups:
        if unit := unit_of(path):
            places.setdefault(unit, []).append(path)
    for name in names:
        if name in places:
            if not any(processes_in(mount, path) for path in places[name]):
                found[name] = "no process is in it"
        elif why := _why_not_there(name, sorted(places), folders):
            found[name] = why
    return found


def _why_not_there(name: str, running: list[str], folders: tuple[Path, ...]) -> str:
    file = next((folder / name for folder in folders if (folder / name).exists()), None)
    if file is None:
        return ""
    real = os.path.basename(os.path.realpath(file))
    if real != name and real.endswith(name[name.rfind(".") :]) and "@" not in name:
        return f"it is an alias of '{real}', which names its cgroup"
    settings = _settings(name, file, folders)
    if settings.get("Type") != "oneshot":
        return ""
    stem, _, kind = name.rpartition(".")
    instances = [f"'{unit}'" for unit in running if unit.startswith(f"{stem}@") and unit.endswith(f".{kind}")]
    command = f" ({settings['ExecStart']})" if settings.get("ExecStart") else ""
    others = f"; running are {', '.join(instances)}" if instances else ""
    return f"it is Type=oneshot{command}: its command ends, and no process stays in it{others}"


def _settings(name: str, file: Path, folders: tuple[Path, ...]) -> Mapping[str, str]:
    """Settings of [Service]. The last value of a name counts, and drop-ins come after the unit file."""
    drop_ins: dict[str, Path] = {}
    for folder in reversed(folders):
        try:
            drop_ins |= {one.name: one for one in (folder / f"{name}.d").iterdir() if one.suffix == ".conf"}
        except OSError:
            continue
    found: dict[str, str] = {}
    for each in (file, *(drop_ins[key] for key in sorted(drop_ins))):
        try:
            lines = each.read_text(errors="replace").splitlines()
        except OSError:
            continue
        section = ""
        for line in map(str.strip, lines):
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and line[0] not in "#;":
                key, _, value = line.partition("=")
                found[key.strip()] = value.strip()
    return found
