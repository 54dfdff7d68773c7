"""Builds the loop, with the parts that it and the exporters call."""

from __future__ import annotations

from pathlib import Path

from agent.config import Settings
from agent.daemon.licensing.told import ToldStore
from agent.daemon.loop.clock_watch import ClockWatch
from agent.daemon.loop.daemon import Daemon
from agent.daemon.loop.host_watch import HostWatch
from agent.daemon.loop.policy_reload import PolicyReload
from agent.daemon.loop.ring_events import RingEvents
from agent.daemon.loop.schedule import Background
from agent.daemon.policy_sync.exec_watch import ExecWatch, exec_tracepoint
from agent.daemon.policy_sync.home_watch import HomeWatch, removal_tracepoint
from agent.daemon.policy_sync.namespace_finder import NamespaceFinder
from agent.daemon.policy_sync.retrying import ReloadRetry
from agent.daemon.reporting.license_watch import LicenseWatch
from agent.daemon.reporting.licenses import LicenseReports
from agent.daemon.reporting.passes import Passes
from agent.daemon.reporting.pins_watch import PinsWatch
from agent.daemon.reporting.snapshot import Snapshots
from agent.daemon.reporting.status import StatusPage
from agent.daemon.reporting.troubles import Troubles
from agent.daemon.reporting.view import View
from agent.daemon.tracking.refused_binds import RefusedBinds
from agent.daemon.wiring.judging import Judging, judging
from agent.daemon.wiring.parts import (
    Enforcement,
    Reporting,
    Tracking,
    enforcement_parts,
    reporting_parts,
    tracking_parts,
)
from agent.export.service_manager import ServiceManager
from agent.kernel.loading.manifest import Manifest
from agent.kernel.pins import Pins
from agent.kernel.uapi import STATS_RUN_TIME
from agent.observe.policy_watch import PolicyWatch
from agent.observe.route_watch import AddressWatch
from agent.system import libbpf
from agent.system.bpf_ring import RingReader


def daemon(
    settings: Settings, manifest: Manifest, cgroup_mount: Path, manager: ServiceManager, quiet: bool
) -> Daemon:
    """The daemon for programs that are loaded. Raises LicetError if a part cannot be made."""
    pins = Pins(settings.paths.pins)
    paths = settings.paths
    files = PolicyWatch(paths.policy, paths.policy_dir, paths.licenses, paths.keys)
    pins_watch, addresses = PinsWatch(pins), AddressWatch()
    by = judging(settings, pins, cgroup_mount)
    tracking = tracking_parts(settings, by)
    reporting = reporting_parts(settings, by, quiet)
    enforcement = enforcement_parts(settings, pins, Path(manifest.cgroup), by, tracking, reporting.agent)
    stored = (by.state, tracking.modes.overrides)
    documents, told = by.keeper.documents, ToldStore(paths.state / "licenses")
    passes, retry = Passes(), ReloadRetry(by.keeper, documents)
    policy, patience = (by.keeper, retry), by.reader.patience
    licenses = (documents, told)
    troubles = Troubles(policy, files, stored, pins_watch, by.license_time, passes, patience, licenses)
    background = Background()
    host = HostWatch(
        by.keeper,
        by.host,
        tracking.follower,
        tracking.usage,
        enforcement.cutter,
        reporting.judged,
        reporting.listeners,
    )
    reload = PolicyReload(
        keeper=by.keeper,
        program_settings=by.program_settings,
        overrides=tracking.modes.overrides,
        gates=enforcement.gates,
        cutter=enforcement.cutter,
        execs=ExecWatch(exec_tracepoint(pins), by.keeper, by.reader),
        last_hour=tracking.last_hour,
        reports=reporting.agent,
        manager=manager,
        troubles=troubles,
        passes=passes,
        retry=retry,
        files=files,
        host=host,
        background=background,
        quiet=quiet,
    )
    homes, finder = HomeWatch(removal_tracepoint(pins), by.keeper), NamespaceFinder(by.namespaces, by.keeper)
    return Daemon(
        settings=settings,
        manager=manager,
        ring=_ring(by, tracking, reporting, host, background, homes, finder),
        reload=reload,
        host=host,
        addresses=addresses,
        finder=finder,
        homes=homes,
        failsafe=enforcement.failsafe,
        gates=enforcement.gates,
        cutter=enforcement.cutter,
        modes=enforcement.switch,
        rights=enforcement.rights,
        licenses=LicenseWatch(LicenseReports(by.keeper), told),
        datagram_rows=tracking.datagram_rows,
        clock=ClockWatch(by.license_time, by.state, by.keeper, reporting.agent, host.wake),
        troubles=troubles,
        passes=passes,
        reporter=reporting.judged,
        reports=reporting.agent,
        view=_view(settings, manifest, pins, by, tracking, enforcement, reporting, troubles, reload),
        background=background,
        generation=by.maps.generation,
        statistics=libbpf.enable_stats(STATS_RUN_TIME) if settings.costs else None,
    )


def _ring(
    by: Judging,
    tracking: Tracking,
    reporting: Reporting,
    host: HostWatch,
    background: Background,
    homes: HomeWatch,
    finder: NamespaceFinder,
) -> RingEvents:
    return RingEvents(
        reader=RingReader(by.counters.ring.fd, by.counters.bulk.fd),
        counters=by.counters,
        names=by.names,
        keeper=by.keeper,
        attributor=by.attributor,
        containers=by.containers,
        homes=homes,
        finder=finder,
        usage=tracking.usage,
        exposures=tracking.exposures,
        listening=by.listening,
        strangers=tracking.strangers,
        refused_binds=RefusedBinds(),
        reporter=reporting.judged,
        listener_reports=reporting.listeners,
        host=host,
        background=background,
    )


def _view(
    settings: Settings,
    manifest: Manifest,
    pins: Pins,
    by: Judging,
    tracking: Tracking,
    enforcement: Enforcement,
    reporting: Reporting,
    troubles: Troubles,
    reload: PolicyReload,
) -> View:
    licenses = LicenseReports(by.keeper)
    snapshots = Snapshots(
        settings,
        manifest,
        pins,
        by.keeper,
        by.counters,
        tracking.usage,
        by.listening,
        tracking.exposures,
        tracking.datagram_rows,
        reporting.outlet.log,
        tracking.modes,
        enforcement.gates,
        troubles,
        by.license_time,
        licenses,
    )
    status = StatusPage(
        settings,
        manifest,
        pins,
        by.keeper,
        by.counters,
        by.listening,
        by.containers,
        enforcement.gates,
        troubles,
        snapshots,
        licenses,
    )
    return View(
        by.keeper,
        by.counters,
        by.names,
        tracking.flows,
        by.listening,
        reporting.outlet.log,
        enforcement.switch,
        snapshots,
        status,
        reload,
        licenses,
    )
