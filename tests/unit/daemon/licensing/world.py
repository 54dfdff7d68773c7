"""Hosts on which license documents come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.licensing.key_ring import KeyRing
from agent.daemon.licensing.node import Node
from agent.daemon.licensing.store import LicenseStore
from agent.daemon.licensing.verifier import Verifier
from agent.license.clock import Moment
from agent.license.verification import Check, NoVerdict
from tests.fixtures.vendor import REVOCATIONS, Vendor, VendorKey

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = VendorKey(2)
TIMES = {"issued_at": "2026-05-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00Z"}


@dataclass
class Clock:
    now: Moment = field(default_factory=lambda: Moment(NOW, NOW))

    def moment(self) -> Moment:
        return self.now


class InProcess:
    """Verifies as the child does, without its start; `fails` makes it give no verdict."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = False

    def __call__(self, checks: Sequence[Check]) -> list[bool]:
        if self.fails:
            raise NoVerdict("killed")
        self.asked += len(checks)
        return [_holds(check) for check in checks]


def _holds(check: Check) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(check.public_key).verify(check.signature, check.message)
    except InvalidSignature:
        return False
    return True


@dataclass
class World:
    """The folders of one host; `start` is a start of the agent."""

    path: Path
    vendor: Vendor = field(default_factory=Vendor)
    clock: Clock = field(default_factory=Clock)
    verify: InProcess = field(default_factory=InProcess)

    @property
    def files(self) -> Path:
        return self.path / "licenses"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    def start(self) -> LicenseKeeper:
        store = LicenseStore(self.path / "state/licenses")
        store.put_node_ids({"hk": "hk:" + "1" * 64})
        node = Node(self.path / "proc", self.path / "state", store)
        ring = KeyRing(self.keys, store)
        keeper = LicenseKeeper(self.files, ring, store, node, Verifier(self.verify), self.clock)
        keeper.refresh()
        return keeper

    def put(self, name: str, *keys: VendorKey, **fields: object) -> None:
        self.write(name, self.vendor.sign(self.vendor.license(**{**TIMES, **fields}), *keys))

    def revoke(self, name: str, *keys: VendorKey, **fields: object) -> None:
        times = {"issued_at": TIMES["issued_at"], "next_update": TIMES["expires_at"]}
        payload = self.vendor.revocations(**{**times, **fields})
        self.write(name, self.vendor.sign(payload, *keys, kind=REVOCATIONS))

    def write(self, name: str, content: bytes) -> None:
        self.files.mkdir(exist_ok=True)
        (self.files / name).write_bytes(content)


def states(keeper: LicenseKeeper) -> dict[str, str]:
    """By file, with * for a copy."""
    return {one.file + "*" * one.is_copy: one.standing.state.value for one in keeper.reports}
