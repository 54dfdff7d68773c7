"""Start and end of the daemon. The loader child compiles while this process imports the rest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.config import Settings
from agent.daemon.state import RunLock
from agent.errors import AlreadyRunning, KernelError
from agent.kernel import load
from agent.kernel.load import Manifest
from agent.observe.cgroup import find_mount

STOPPED_WITHIN_S = 15.0


def run(settings: Settings, quiet: bool) -> int:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="licet: %(levelname)s: %(message)s",
    )
    load.require_root()
    lock = RunLock(settings.paths.run)
    try:
        cgroup_mount = find_mount()
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(_ensure_loaded, settings, scope_cgroup(settings, cgroup_mount))
            from agent.daemon.agent import Daemon  # takes its time, as compiling does

            manifest = loading.result()
        asyncio.run(Daemon(settings, manifest, cgroup_mount, quiet).serve())
    finally:
        lock.release()
    return 0


@contextlib.contextmanager
def stopped(settings: Settings) -> Iterator[None]:
    """No daemon runs meanwhile: one that does is asked to end. Raises AlreadyRunning where it does not."""
    deadline = time.monotonic() + STOPPED_WITHIN_S
    asked = False
    while True:
        try:
            lock = RunLock(settings.paths.run)
            break
        except AlreadyRunning as running:
            if not running.pid or time.monotonic() > deadline:
                raise
            if not asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.pid, signal.SIGTERM)
                asked = True
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def scope_cgroup(settings: Settings, cgroup_mount: Path) -> Path:
    """The directory the programs attach to. Raises KernelError where it is not there."""
    cgroup = cgroup_mount / settings.scope.cgroup.lstrip("/")
    if not cgroup.is_dir():
        raise KernelError(
            f"scope.cgroup: {settings.scope.cgroup}: no such cgroup below {cgroup_mount}; "
            "write it as /proc/PID/cgroup does, / for the whole host"
        )
    return cgroup


def _ensure_loaded(settings: Settings, cgroup: Path) -> Manifest:
    if load.is_current(settings, cgroup):
        manifest = Manifest.read(load.manifest_path(settings))
        if manifest is not None:
            return manifest
    return load.load(settings, cgroup)
