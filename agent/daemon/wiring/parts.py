"""Builds the parts that track the host, that enforce, and that report both."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from agent.config import Settings
from agent.daemon.enforcement.confined_rights import Rights
from agent.daemon.enforcement.datagram_hooks import Datagrams
from agent.daemon.enforcement.failsafe import Failsafe
from agent.daemon.enforcement.flow_cutter import FlowCutter
from agent.daemon.enforcement.gates import Gates
from agent.daemon.enforcement.mode_switch import ModeSwitch
from agent.daemon.enforcement.packet_gate import PacketGate
from agent.daemon.enforcement.preview import Foresight
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.daemon.reporting.agent_reports import AgentReports
from agent.daemon.reporting.console import Console
from agent.daemon.reporting.listener_reports import ListenerReports
from agent.daemon.reporting.outlet import Outlet
from agent.daemon.reporting.reporter import Reporter
from agent.daemon.tracking.adoption import Adoption
from agent.daemon.tracking.datagram_rows import DatagramRows
from agent.daemon.tracking.exposures import Exposures
from agent.daemon.tracking.flows import FlowTable
from agent.daemon.tracking.last_hour import LastHour
from agent.daemon.tracking.reconcile import HostFollower
from agent.daemon.tracking.resolution import Resolution
from agent.daemon.tracking.strangers import Strangers
from agent.daemon.tracking.usage import Usage
from agent.daemon.wiring.judging import Judging
from agent.enforce.mode_overrides import Overrides
from agent.errors import ConfigError
from agent.export.envelope import Envelope
from agent.export.event_log import EventLog
from agent.kernel.attach.gates import BIND, CONNECT, CgroupGate, SocketGate
from agent.kernel.pins import Pins

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tracking:
    """The parts that track the host, beside those that judge."""

    modes: ModesInForce
    usage: Usage
    flows: FlowTable
    follower: HostFollower
    exposures: Exposures
    strangers: Strangers
    last_hour: LastHour
    datagram_rows: DatagramRows


def tracking_parts(settings: Settings, by: Judging) -> Tracking:
    """The parts that track the host for the judging parts `by`."""
    keeper, counters, names, attributor = by.keeper, by.counters, by.names, by.attributor
    kept_in = settings.paths.state / "modes.json"
    overrides = Overrides(counters.modes, keeper, kept_in)
    modes = ModesInForce(keeper, overrides)
    usage = Usage(counters, names, attributor, keeper.ids, Resolution(keeper, modes))
    flows = FlowTable(counters, names, attributor, keeper.ids, by.listening)
    follower = HostFollower(
        keeper,
        by.listening,
        flows,
        Adoption(flows, counters, names, keeper.ids, by.reader, modes),
        attributor,
        by.namespaces,
        by.containers,
        settings.intervals.reconcile,
    )
    strangers = Strangers(by.listening, keeper)
    last_hour = LastHour(by.state, usage, keeper, strangers)
    rows = DatagramRows(counters)
    return Tracking(modes, usage, flows, follower, Exposures(keeper), strangers, last_hour, rows)


@dataclass(frozen=True, slots=True)
class Enforcement:
    failsafe: Failsafe
    gates: Gates
    cutter: FlowCutter
    rights: Rights
    switch: ModeSwitch


def enforcement_parts(
    settings: Settings, pins: Pins, cgroup: Path, by: Judging, tracking: Tracking, reports: AgentReports
) -> Enforcement:
    """The parts that refuse attempts and end flows. Nothing is attached yet."""
    failsafe = Failsafe(by.maps, frozenset(settings.guard.failsafe_ports))
    gates = Gates(
        settings=settings,
        maps=by.maps,
        modes=tracking.modes,
        namespaces=by.namespaces,
        connect=CgroupGate(pins, cgroup, CONNECT),
        bind=CgroupGate(pins, cgroup, BIND),
        socket=SocketGate(pins),
        datagrams=Datagrams.on(settings, by.maps, pins, cgroup, by.keeper),
        packet=PacketGate(settings),
    )
    cutter = FlowCutter(by.keeper, tracking.flows, by.attributor, by.namespaces, tracking.modes, failsafe)
    rights = Rights(by.keeper, by.reader, by.namespaces, tracking.usage)
    switch = ModeSwitch(
        tracking.modes,
        gates,
        cutter,
        Foresight(by.keeper, tracking.usage, tracking.flows),
        rights,
        tracking.strangers,
        tracking.last_hour,
        failsafe,
        audit=reports,
    )
    return Enforcement(failsafe, gates, cutter, rights, switch)


@dataclass(frozen=True, slots=True)
class Reporting:
    outlet: Outlet
    agent: AgentReports
    judged: Reporter
    listeners: ListenerReports


def reporting_parts(settings: Settings, by: Judging, quiet: bool) -> Reporting:
    _warn_of_missing_namespaces(settings)
    envelope = Envelope(os.uname().nodename, by.keeper, settings.events.args)
    log = EventLog(_sink(settings, quiet), settings.events.keep, envelope.around)
    outlet = Outlet(log, Console(quiet))
    return Reporting(
        outlet,
        AgentReports(outlet, by.keeper),
        Reporter(outlet, by.keeper, by.listening, by.attributor, by.names),
        ListenerReports(outlet, by.keeper),
    )


def _sink(settings: Settings, quiet: bool) -> str:
    """The sink of events. Raises ConfigError if its file can never be made."""
    sink = settings.events.sink
    if sink == "auto":
        return "stdout" if quiet else "none"
    if sink not in ("stdout", "none") and not Path(sink).parent.is_dir():
        raise ConfigError(f"events.sink: {sink}: no such directory; make it, or choose another file")
    return sink


def _warn_of_missing_namespaces(settings: Settings) -> None:
    for path in settings.scope.namespaces or ():
        if not Path(path).exists():
            log.warning("scope.namespaces: %s: not there (yet): its listeners are not listed", path)
