"""A policy keeper with license documents, a vendor, and a clock that a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.licensing.key_ring import KeyRing
from agent.daemon.licensing.node import Node
from agent.daemon.licensing.store import LicenseStore
from agent.daemon.licensing.verifier import Verifier
from agent.daemon.reporting.licenses import LicenseReports
from agent.export.licenses import License, Licenses
from agent.license.clock import Moment
from tests.fixtures.vendor import REVOCATIONS, Vendor, VendorKey
from tests.unit.daemon.licensing.world import Clock, InProcess
from tests.unit.daemon.policy_sync.test_keeper import World as PolicyWorld

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = """\
version: 1
services: {orders: {product: acme-orders, ports: [{port: 5432, class: internal}]}}
principals: {billing: [{uid: 1001}]}
"""
INLINE = """\
licenses:
  - {id: plain, product: acme-orders, licensee: Us, entitlements: [{id: a, principals: [billing]}]}
"""
TIMES = {
    "issued_at": "2026-05-01T00:00:00Z",
    "expires_at": "2027-01-01T00:00:00Z",
    "terminates_at": "2027-02-01T00:00:00Z",
}


@dataclass
class Host:
    """`restart` is another daemon on the same host."""

    folder: Path
    vendor: Vendor = field(default_factory=lambda: Vendor(keys=[VendorKey(1), VendorKey(2)]))
    clock: Clock = field(default_factory=lambda: Clock(Moment(NOW, NOW)))
    verify: InProcess = field(default_factory=InProcess)

    def __post_init__(self) -> None:
        for key in self.vendor.keys:
            self.vendor.pin(self.folder / "keys", key)
        self.files.mkdir()
        self.restart()

    @property
    def files(self) -> Path:
        return self.folder / "licenses"

    def restart(self, *, require_signed: bool = False) -> None:
        self.world = _World(self.folder, self)
        self.world.settings = self.world.settings.model_copy(update={"require_signed": require_signed})
        self.world.keeper = self.world.daemon()
        self.keeper = self.world.keeper
        self.reports = LicenseReports(self.keeper)

    def load(self, policy: str = POLICY) -> Licenses:
        self.world.load(policy)
        return self.reports.now()

    def at(self, now: datetime) -> Licenses:
        """What is known once the clocks show that, before anything is judged again."""
        self.clock.now = Moment(now, now)
        return self.reports.now()

    def put(self, name: str, *keys: VendorKey, **fields: object) -> None:
        fields = {"entitlements": [{"id": "app", "principals": ["billing"]}], **TIMES, **fields}
        self.write(name, self.vendor.sign(self.vendor.license(**fields), *keys))

    def revoke(self, name: str, *keys: VendorKey, **fields: object) -> None:
        times = {"issued_at": TIMES["issued_at"], "next_update": "2026-07-01T00:00:00Z"}
        payload = self.vendor.revocations(**{**times, **fields})
        self.write(name, self.vendor.sign(payload, *keys, kind=REVOCATIONS))

    def write(self, name: str, content: bytes) -> None:
        (self.files / name).write_bytes(content)

    def keeper_of_documents(self) -> LicenseKeeper:
        store = LicenseStore(self.folder / "state/licenses")
        store.put_node_ids({"hk": "hk:" + "1" * 64})
        ring = KeyRing(self.folder / "keys", store)
        node = Node(self.folder / "proc", self.folder / "state", store)
        return LicenseKeeper(self.files, ring, store, node, Verifier(self.verify), self.clock)


class _World(PolicyWorld):
    def __init__(self, folder: Path, host: Host) -> None:
        self._host = host
        super().__init__(folder)

    def documents(self) -> LicenseKeeper:
        return self._host.keeper_of_documents()


def shown(found: Licenses) -> dict[str, str]:
    """By file, or by id if there is none; * for a copy, ! for one in force."""
    return {_name(one): one.state.value for one in found.listed}


def _name(one: License) -> str:
    return (one.file or one.id) + "*" * one.is_copy + "!" * one.in_force
