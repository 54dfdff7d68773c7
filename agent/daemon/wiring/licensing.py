"""Builds the parts that keep license documents."""

from __future__ import annotations

from agent.config import Settings
from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.licensing.key_ring import KeyRing
from agent.daemon.licensing.node import Node
from agent.daemon.licensing.store import LicenseStore
from agent.daemon.licensing.time import LicenseTime
from agent.daemon.licensing.verifier import Verifier


def license_keeper(settings: Settings, license_time: LicenseTime) -> LicenseKeeper:
    """The keeper of the documents in paths.licenses, signed by keys of paths.keys."""
    paths = settings.paths
    store = LicenseStore(paths.state / "licenses")
    node = Node(paths.proc, paths.state, store)
    return LicenseKeeper(paths.licenses, KeyRing(paths.keys, store), store, node, Verifier(), license_time)
