"""Start and end of the daemon. The loader child compiles while this process imports the other modules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.config import Settings
from agent.daemon.startup.allocator import give_memory_back
from agent.daemon.startup.locks import PinsLock, RunLock
from agent.daemon.startup.trusted_places import refuse_others
from agent.errors import AlreadyRunning, KernelError
from agent.export.sanitize import printable
from agent.export.service_manager import service_manager
from agent.kernel.loading import supervisor
from agent.kernel.loading.manifest import Manifest, manifest_path
from agent.kernel.upgrade import staging
from agent.observe.cgroup import find_mount
from agent.system.time_namespace import refuse_shifted_boot_clock

log = logging.getLogger(__name__)
STOPPED_WITHIN_S = 15.0
DESCRIPTORS = 65536
"""Limit of open descriptors. Each namespace, interface and connection takes one; a shell's default is
1,024."""
SWITCH_S = 0.0005
"""Interval at which a thread that compiles a policy yields to the loop and to looks at new namespaces. Each
of their system calls may wait for one interval."""


def run(settings: Settings, quiet: bool, config: Path, log_level: str) -> int:
    """Run the daemon, from its locks to the end of the loop. Returns the exit code. Raises LicetError."""
    log_to_stderr(log_level)
    supervisor.require_root()
    refuse_shifted_boot_clock()
    _raise_descriptors()
    give_memory_back()
    refuse_others(settings, config)
    with contextlib.ExitStack() as locks:
        locks.callback(RunLock(settings.paths.run).release)
        supervisor.ensure_bpffs(settings.paths.pins)
        locks.callback(PinsLock(settings.paths.pins).release)
        # check again: another process may have made a path that was missing before
        for doubt in refuse_others(settings, config):
            log.warning("%s", doubt)
        cgroup_mount = find_mount()
        log.debug("start: alone at %s and %s", settings.paths.run, settings.paths.pins)
        manager = service_manager(os.environ)
        manager.starting(supervisor.LOADED_WITHIN_S)
        with ThreadPoolExecutor(1) as pool:
            scope = scope_cgroup(settings, cgroup_mount)
            loading = pool.submit(ensure_loaded, settings, scope, cgroup_mount)
            from agent.daemon.wiring.daemon import daemon  # slow, as compiling is

            manifest = loading.result()
            rungs = ", ".join(f"{hook} by {rung}" for hook, rung in manifest.hooks.items())
            log.debug("start: programs are in the kernel: %s", rungs)
        sys.setswitchinterval(SWITCH_S)
        asyncio.run(daemon(settings, manifest, cgroup_mount, manager, quiet).serve())
    return 0


class _Readable(logging.Formatter):
    """No name of a file or a process can steer the terminal that shows a line."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def log_to_stderr(level: str) -> None:
    """Log to stderr without the libraries' debug lines. With `debug`, each line has its time and module."""
    where = "%(asctime)s %(levelname)s: %(name)s" if level == "debug" else "%(levelname)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Readable(f"licet: {where}: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("agent").setLevel(level.upper())


def _raise_descriptors() -> None:
    """Raise the limit of descriptors as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextlib.contextmanager
def stopped(settings: Settings) -> Iterator[int]:
    """Stop a running daemon and keep others from starting. Yields its pid, or 0 if none ran. Raises
    AlreadyRunning if it does not end."""
    deadline = time.monotonic() + STOPPED_WITHIN_S
    asked = 0
    while True:
        try:
            lock = RunLock(settings.paths.run)
            break
        except AlreadyRunning as running:
            if time.monotonic() > deadline:
                raise AlreadyRunning(
                    f"the daemon (pid {running.pid or 'unknown'}) has not ended within "
                    f"{STOPPED_WITHIN_S:g} s, and nothing was unloaded: end it (`systemctl kill -s KILL "
                    f"licet`, then `systemctl stop licet`; or `kill -9 {running.pid or 'PID'}`), and try "
                    "again",
                    running.pid,
                ) from running
            if running.pid and not asked:  # without a pid, it is about to start or to end
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.pid, signal.SIGTERM)
                asked = running.pid
            time.sleep(0.05)
    try:
        with _pins_locked(settings):
            yield asked
    finally:
        lock.release()


@contextlib.contextmanager
def _pins_locked(settings: Settings) -> Iterator[None]:
    """Hold the pins lock, unless nothing is pinned. Raises AlreadyRunning."""
    if not settings.paths.pins.is_dir():
        yield
        return
    lock = PinsLock(settings.paths.pins)
    try:
        yield
    finally:
        lock.release()


def load_alone(settings: Settings, config: Path) -> Manifest:
    """`licet load`. Raises KernelError if a daemon runs with its own, other version of the programs. After a
    replacement, that daemon would use maps that no program writes to."""
    cgroup_mount = find_mount()
    cgroup = scope_cgroup(settings, cgroup_mount)
    supervisor.require_root()
    refuse_shifted_boot_clock()
    refuse_others(settings, config)
    if not staging.needs_upgrade(settings):
        return supervisor.load(settings, cgroup)
    try:
        lock = RunLock(settings.paths.run)
    except AlreadyRunning as running:
        raise KernelError(
            "the programs in the kernel are another version's, and so is the daemon that runs "
            f"(pid {running.pid}); restart it: it puts its own version in force without a gap"
        ) from running
    try:
        with _pins_locked(settings):
            return ensure_loaded(settings, cgroup, cgroup_mount)
    finally:
        lock.release()


def scope_cgroup(settings: Settings, cgroup_mount: Path) -> Path:
    """The directory of the cgroup that the programs attach to. Raises KernelError if it does not exist."""
    cgroup = cgroup_mount / settings.scope.cgroup.lstrip("/")
    if not cgroup.is_dir():
        raise KernelError(
            f"scope.cgroup: {settings.scope.cgroup}: no such cgroup below {cgroup_mount}; "
            "write it as /proc/PID/cgroup does, / for the whole host"
        )
    return cgroup


def ensure_loaded(settings: Settings, cgroup: Path, cgroup_mount: Path) -> Manifest:
    """Load or upgrade the programs if needed. The caller must hold the run lock."""
    if staging.needs_upgrade(settings):
        from agent.daemon.startup.upgrade import upgrade  # its import takes time, because it reads policies

        log.debug("start: an earlier version's programs are in the kernel: upgrading")
        upgrade(settings, cgroup, cgroup_mount)
    if supervisor.is_current(settings, cgroup):
        manifest = Manifest.read(manifest_path(settings))
        if manifest is not None:
            log.debug("start: pins are of this version: taking over")
            return manifest
    return supervisor.load(settings, cgroup)
