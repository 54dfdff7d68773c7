"""License time as the daemon stores it, and as version 0.1.0 did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.license.clock import (
    LATEST_NS,
    MINUTE_NS,
    PROOF_NS,
    SECOND_NS,
    TOLERANCE_NS,
    LicenseClock,
    Observed,
    Steps,
)

FORMAT = 2
_KEYS = {
    "format",
    "boot",
    "boot_ns",
    "wall_offset_ns",
    "firm_offset_ns",
    "taken",
    "ahead",
    "steps",
    "is_confirmed",
}


def to_json(clock: LicenseClock) -> dict[str, object]:
    return {
        "format": FORMAT,
        "boot": clock.boot,
        "boot_ns": clock.boot_ns,
        "wall_offset_ns": clock.wall_offset_ns,
        "firm_offset_ns": clock.firm_offset_ns,
        "taken": _observed_json(clock.taken),
        "ahead": _observed_json(clock.ahead),
        "steps": [list(one) for one in clock.steps.by_minute],
        "is_confirmed": clock.is_confirmed,
    }


def resumed(stored: object, boot: str, boot_ns: int, wall_ns: int) -> LicenseClock:
    """License time at the first look of a run, from what an earlier run stored.

    Raises ValueError with the reason if `stored` is not what a licet writes; license time then has to start
    anew."""
    if isinstance(stored, Mapping) and "format" not in stored:
        return _of_0_1_0(stored, boot, boot_ns, wall_ns)
    return from_json(stored).resumed(boot, boot_ns, wall_ns)


def from_json(stored: object) -> LicenseClock:
    """The clock as it was stored. Raises ValueError for anything that `to_json` cannot have made."""
    if not isinstance(stored, Mapping):
        raise ValueError("keys and values are expected")
    if stored.keys() != _KEYS:
        names = ", ".join(sorted(map(str, stored.keys() ^ _KEYS)))
        raise ValueError(f"keys that are missing or unknown: {names:.200}")
    if stored["format"] != FORMAT:
        raise ValueError(f"format {FORMAT} is expected, not {stored['format']!r:.60}")
    boot_ns = _number(stored, "boot_ns", 0, LATEST_NS)
    firm_ns = _number(stored, "firm_offset_ns", -boot_ns, LATEST_NS)
    clock = LicenseClock(
        boot=_boot(stored),
        boot_ns=boot_ns,
        wall_offset_ns=_number(stored, "wall_offset_ns", -boot_ns, LATEST_NS),
        firm_offset_ns=firm_ns,
        taken=_observed(stored, "taken", firm_ns),
        ahead=_observed(stored, "ahead", -boot_ns),
        steps=_steps(stored, boot_ns // MINUTE_NS),
        is_confirmed=_flag(stored, "is_confirmed"),
    )
    if clock.taken and clock.ahead and clock.ahead.seen_ns > clock.taken.seen_ns:
        raise ValueError("ahead: seen_ns is larger than that of taken")
    return clock


def _of_0_1_0(stored: Mapping[object, object], boot: str, boot_ns: int, wall_ns: int) -> LicenseClock:
    """From the newest wall clock that 0.1.0 ever saw, and the offset that its deadlines went by once a time
    service had set the clock in this boot.

    The offset is firm. The newest wall clock has had no proof: it is taken, until the clock corrects it."""
    if not {"seen_unix_s"} <= stored.keys() <= {"seen_unix_s", "boot", "offset_ns"}:
        raise ValueError("neither this version nor 0.1.0 writes these keys")
    seen_s = stored["seen_unix_s"]
    if (
        isinstance(seen_s, bool)
        or not isinstance(seen_s, int | float)
        or not 0 <= seen_s <= LATEST_NS / SECOND_NS
    ):
        raise ValueError(f"seen_unix_s: a time is expected, not {seen_s!r:.60}")
    clock = LicenseClock.started(boot, boot_ns, wall_ns)
    if stored.get("boot") == boot and "offset_ns" in stored:
        offset_ns = max(clock.firm_offset_ns, _number(stored, "offset_ns", -boot_ns, LATEST_NS))
        return replace(clock, firm_offset_ns=offset_ns, taken=None, is_confirmed=False).looked(
            boot_ns, wall_ns
        )
    seen_offset_ns = int(seen_s * SECOND_NS) - boot_ns
    if seen_offset_ns <= clock.offset_ns:
        return clock
    taken = replace(clock, taken=Observed(seen_offset_ns), is_confirmed=False)
    return taken.looked(boot_ns, wall_ns)


def _number(stored: Mapping[object, object], key: str, least: int, most: int) -> int:
    return _whole(stored[key], key, least, most)


def _whole(found: object, name: str, least: int, most: int) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
        raise ValueError(f"{name}: a whole number from {least} to {most} is expected, not {found!r:.60}")
    return found


def _boot(stored: Mapping[object, object]) -> str:
    boot = stored["boot"]
    if not isinstance(boot, str) or not 0 < len(boot) <= 64:
        raise ValueError(f"boot: the id of a boot is expected, not {boot!r:.60}")
    return boot


def _flag(stored: Mapping[object, object], key: str) -> bool:
    found = stored[key]
    if not isinstance(found, bool):
        raise ValueError(f"{key}: true or false is expected, not {found!r:.60}")
    return found


def _observed_json(one: Observed | None) -> dict[str, int] | None:
    return {"offset_ns": one.offset_ns, "seen_ns": one.seen_ns} if one else None


def _observed(stored: Mapping[object, object], key: str, least_ns: int) -> Observed | None:
    found = stored[key]
    if found is None:
        return None
    if not isinstance(found, Mapping) or found.keys() != {"offset_ns", "seen_ns"}:
        raise ValueError(f"{key}: offset_ns and seen_ns are expected, not {found!r:.60}")
    return Observed(
        _whole(found["offset_ns"], f"{key}.offset_ns", least_ns, LATEST_NS),
        _whole(found["seen_ns"], f"{key}.seen_ns", 0, PROOF_NS),
    )


def _steps(stored: Mapping[object, object], newest: int) -> Steps:
    found = stored["steps"]
    if not isinstance(found, list):
        raise ValueError(f"steps: a list is expected, not {found!r:.60}")
    before, total_ns, steps = -1, 0, []
    for one in found:
        if not isinstance(one, list) or len(one) != 2:
            raise ValueError(f"steps: pairs of minute and ns are expected, not {one!r:.60}")
        before = _whole(one[0], "steps: minute", before + 1, newest)
        ns = _whole(one[1], "steps: ns", 1, TOLERANCE_NS - total_ns)
        total_ns += ns
        steps.append((before, ns))
    return Steps(tuple(steps))
