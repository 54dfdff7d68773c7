"""All values of /metrics, taken from the parts at one instant."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import agent
from agent import abi
from agent.config import Settings
from agent.daemon.enforcement.gates import Gates
from agent.daemon.licensing.time import LicenseTime
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.daemon.reporting.licenses import LicenseReports
from agent.daemon.reporting.troubles import Troubles
from agent.daemon.tracking.consumers import OTHER
from agent.daemon.tracking.datagram_rows import DatagramRows
from agent.daemon.tracking.exposures import Exposures
from agent.daemon.tracking.listeners import Listening
from agent.daemon.tracking.usage import Usage
from agent.export.agent_port import MapUse, ModeOverride, ProgramCost, Snapshot
from agent.export.event_log import EventLog
from agent.kernel.loading.manifest import Manifest
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.model import Decision, ListenerState, Reason, Target
from agent.system import libbpf

_COUNTED_MAPS = ("flows", "uses", "acceptors", "edges")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Gathers the values of a scrape."""

    settings: Settings
    manifest: Manifest
    pins: Pins
    keeper: PolicyKeeper
    counters: Counters
    usage: Usage
    listening: Listening
    exposures: Exposures
    datagram_rows: DatagramRows
    event_log: EventLog
    modes: ModesInForce
    gates: Gates
    troubles: Troubles
    license_time: LicenseTime
    licenses: LicenseReports

    def take(self) -> Snapshot:
        """All values at one instant. Reads maps of the kernel outside the loop's thread."""
        keeper, named = self.keeper, self.keeper.ids.targets
        connections, violations, unresolved = self._attempts(named)
        flows = self.counters.opened_closed(named)
        wanted = self.modes.enforcing()
        return Snapshot(
            version=agent.__version__,
            targets=self.modes.targets(),
            connections=connections,
            violations=violations,
            unresolved=unresolved,
            listener_violations=self._listener_violations(),
            violations_by_consumer=with_the_rest(self.usage.violations_by_consumer(), violations),
            active=self.active(),
            opened={named[number]: counts[0] for number, counts in flows.items()},
            closed={named[number]: counts[1] for number, counts in flows.items()},
            unprotected=self.counters.unprotected(),
            listeners=self.listening.counts(),
            exposures=self.listening.exposures(),
            unserved=Counter(one.target for one in self.listening.unserved),
            licenses=self.licenses.now(),
            license_time_offset_s=self.license_time.now.wall_lead_ns / 1e9,
            refused=self._refused(),
            enforcing=self._in_effect(wanted),
            enforcing_wanted=wanted,
            mode_overrides=self._overrides(),
            policy_generation=keeper.generation,
            policy_sha256=keeper.sha256,
            policy_reload_failures=keeper.failures,
            policy_reload_ok=not keeper.last_error,
            policy_loaded_unix_s=keeper.loaded_unix_s,
            events_lost=self.losses(),
            maps=self.maps(),
            programs=self._programs(),
            troubles=self.troubles.now(),
            hooks=self.manifest.hooks,
        )

    def losses(self) -> dict[str, int]:
        return {**self.counters.losses(), **self.event_log.losses(), **self.datagram_rows.losses()}

    def enforcing(self) -> dict[Target, bool]:
        """Whether each target enforces. None does while no gate is attached, whatever its mode."""
        return self._in_effect(self.modes.enforcing())

    def _in_effect(self, wanted: Mapping[Target, bool]) -> dict[Target, bool]:
        attached = bool(self.gates.attached) and not self.troubles.now()["pins"]
        return {target: attached and enforces for target, enforces in wanted.items()}

    def active(self) -> dict[Target, int]:
        named = self.keeper.ids.targets
        return {named[number]: count for number, count in self.counters.active().items() if number in named}

    def maps(self) -> dict[str, MapUse]:
        found = {}
        for name in _COUNTED_MAPS:
            opened = getattr(self.counters, name)
            used = sum(not (name == "flows" and abi.is_spare_flow(key)) for key, _ in opened.items())
            found[name] = MapUse(used, opened.max_entries)
        return found

    def _attempts(
        self, named: Mapping[int, Target]
    ) -> tuple[dict[Any, int], dict[tuple[Target, str], int], dict[tuple[Target, Decision], int]]:
        """(connections, violations by reason, unresolved connections)."""
        connections: Counter[Any] = Counter()
        violations: Counter[tuple[Target, str]] = Counter()
        unresolved: Counter[tuple[Target, Decision]] = Counter()
        for attempts in self.counters.attempts():
            target = named.get(attempts.target)
            if target is None:
                continue
            connections[target, attempts.origin, attempts.decision] += attempts.count
            if attempts.reason is Reason.UNRESOLVED:
                unresolved[target, attempts.decision] += attempts.count
            if attempts.decision is Decision.DENIED:
                violations[target, attempts.reason.name.lower()] += attempts.count
        return dict(connections), dict(violations), dict(unresolved)

    def _listener_violations(self) -> dict[tuple[str, str, str], int]:
        """Violations of listeners: wrong listeners, once when found; peers from outside a scope; consumers
        refused because a stranger listens."""
        found = Counter(self.listening.violations.counts())
        found.update(self.exposures.violations.counts())
        named = self.keeper.ids.targets
        for number, count in self.counters.misled(named).items():
            target = named[number]
            found[(target.service, target.port_class.value, ListenerState.OWNER_MISMATCH.value)] += count
        return dict(found)

    def _refused(self) -> dict[tuple[Target, str], int]:
        named = self.keeper.ids.targets
        found = self.counters.refusals(named)
        return {(named[number], gate): count for (number, gate), count in found.items()}

    def _overrides(self) -> list[ModeOverride]:
        return [ModeOverride(one.target, one.mode, one.since_unix_s) for one in self.modes.overridden()]

    def _programs(self) -> dict[str, ProgramCost]:
        if not self.settings.costs:
            return {}
        found = {}
        for name in self.pins.programs():
            fd = libbpf.open_pin(self.pins.program(name))
            try:
                info = libbpf.program_info(fd)
            finally:
                os.close(fd)
            found[name] = ProgramCost(info.run_cnt, info.run_time_ns)
        return found


def with_the_rest(
    by_consumer: Mapping[tuple[str, str], int], violations: Mapping[tuple[Target, str], int]
) -> dict[tuple[str, str], int]:
    """Violations by consumer. Denied attempts without a row (full map, older connections) are `other`, so
    that the consumers of a service add up to its violations."""
    found = dict(by_consumer)
    denied: dict[str, int] = {}
    for (target, _), count in violations.items():
        denied[target.service] = denied.get(target.service, 0) + count
    for service, count in denied.items():
        missing = count - sum(n for (name, _), n in by_consumer.items() if name == service)
        if missing > 0:
            found[service, OTHER] = found.get((service, OTHER), 0) + missing
    return found
