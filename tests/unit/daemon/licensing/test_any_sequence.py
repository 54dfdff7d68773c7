"""Whatever happens to files, keys, verifier and time, in any order: nothing that was not signed is accepted,
nothing is half applied, and a restart changes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.daemon.licensing.keeper import LicenseKeeper
from agent.license.clock import Moment
from agent.license.report import DocumentReport
from agent.license.standing import HOLDS
from agent.license.values import LicenseDocument
from tests.fixtures.vendor import Vendor, VendorKey
from tests.unit.daemon.licensing.world import DAY, NOW, World

STEPS = 30
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Each step writes and synchronizes files."""
EXAMPLES = max(1, int(os.environ.get("LICET_EXAMPLES", "2000")) // STEPS)
"""Sequences of STEPS documents, keys and lists."""
NAMES = st.sampled_from(["a.json", "b.json", "c.json"])
IDS = st.sampled_from(["x", "y"])
KEYS = st.sampled_from([VendorKey(1), VendorKey(2), VendorKey(3)])
"""The third is never pinned."""
VENDORS = {"Acme": Vendor(keys=[]), "Other": Vendor("Other", ("billing",), [])}
ISSUERS = st.sampled_from(["Acme", "Acme", "Acme", "Other"])
DAYS = st.integers(-3, 6)


class Sequences(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FOLDER))
        self.world = World(self.folder)
        self.signed: dict[tuple[str, str, int, str], set[str]] = {}
        """By issuer, id, serial and principal: the kids that signed such a document."""
        self.keeper: LicenseKeeper | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def start(self) -> None:
        for key in (VendorKey(1), VendorKey(2)):
            VENDORS["Acme"].pin(self.world.keys, key)
        self.world.files.mkdir()
        self.keeper = self.world.start()

    @rule(
        name=NAMES,
        issuer=ISSUERS,
        key=KEYS,
        id_=IDS,
        serial=st.integers(1, 4),
        principal=st.sampled_from(["p", "q"]),
        starts=DAYS,
        lasts=st.integers(1, 6),
        supersedes=st.booleans(),
        here=st.booleans(),
    )
    def put(
        self, name: str, issuer: str, key: VendorKey, id_: str, serial: int, principal: str, **rest: Any
    ) -> None:
        starts, ends = NOW + rest["starts"] * DAY, NOW + (rest["starts"] + rest["lasts"]) * DAY
        vendor = VENDORS[issuer]
        payload = vendor.license(
            id=id_,
            serial=serial,
            issued_at=(NOW - 10 * DAY).isoformat(),
            starts_at=starts.isoformat(),
            expires_at=ends.isoformat(),
            terminates_at=(ends + DAY).isoformat(),
            entitlements=[{"id": "use", "principals": [principal]}],
            supersedes=[("y" if id_ == "x" else "x")] if rest["supersedes"] else None,
            node_lock={"any_of": ["hk:" + ("1" if rest["here"] else "2") * 64]},
        )
        self.signed.setdefault((issuer, id_, serial, principal), set()).add(key.kid)
        self.world.write(name, vendor.sign(payload, key))

    @rule(name=NAMES, key=KEYS, id_=IDS, serial=st.integers(1, 4), kid=KEYS, of_key=st.booleans())
    def revoke(self, name: str, key: VendorKey, id_: str, serial: int, kid: VendorKey, of_key: bool) -> None:
        what: dict[str, Any] = (
            {"keys": [kid.kid]} if of_key else {"licenses": [{"id": id_, "serials": [serial]}]}
        )
        self.world.revoke(name, key, serial=serial, **what)

    @rule(name=NAMES, at=st.floats(0, 1), change=st.sampled_from(["flip", "cut", "double"]))
    def spoil(self, name: str, at: float, change: str) -> None:
        path = self.world.files / name
        if not path.exists():
            return
        content = bytearray(path.read_bytes())
        place = min(int(at * len(content)), len(content) - 1)
        if change == "flip":
            content[place] ^= 1
        elif change == "cut":
            del content[place:]
        else:
            content[place:place] = content
        path.write_bytes(bytes(content) or b"{")

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        (self.world.files / name).unlink(missing_ok=True)

    @rule(key=KEYS.filter(lambda key: key.seed != 3), pinned=st.booleans())
    def pin(self, key: VendorKey, pinned: bool) -> None:
        path = VENDORS["Acme"].pin(self.world.keys, key)
        if not pinned:
            path.unlink()

    @rule(days=DAYS, behind=st.sampled_from([0, 0, 400]))
    def time_passes(self, days: int, behind: int) -> None:
        license_ = max(self.world.clock.now.license, NOW + days * DAY)
        self.world.clock.now = Moment(license_, license_ - behind * DAY)
        assert self.keeper
        self.keeper.judge_again()

    @rule()
    def the_verifier_fails(self) -> None:
        """A look without a verdict takes away nothing that held, unless its file or its key is gone."""
        assert self.keeper
        self.keeper.refresh()
        before = holding(self.keeper)
        self.world.verify.fails = True
        self.keeper.refresh()
        assert holding(self.keeper) == before
        self.world.verify.fails = False

    @precondition(lambda self: self.keeper is not None)
    @invariant()
    def holds(self) -> None:
        assert self.keeper
        before = {
            one.file: one
            for one in self.keeper.reports
            if one.standing.state in HOLDS and isinstance(one.document, LicenseDocument)
        }
        self.keeper.refresh()
        pinned = {path.stem for path in self.world.keys.iterdir()}
        for report in self.keeper.reports:
            self._was_signed(report, pinned)
        self._spoils_nothing(before)
        seen = self.keeper.reports
        self.keeper.refresh()
        assert self.keeper.reports == seen, "a second look finds the same"
        assert self.world.start().reports == seen, "and so does a restart"

    def _was_signed(self, report: DocumentReport, pinned: set[str]) -> None:
        document = report.document
        if not report.verified or not isinstance(document, LicenseDocument):
            return
        said = document.issuer, document.id, document.serial, document.entitlements[0].principals[0]
        assert document.issuer == "Acme", "the other issuer has no pinned key"
        assert {kid for kid in self.signed[said] if kid[:12] in pinned}, "no pinned key has signed this"

    def _spoils_nothing(self, before: dict[str, DocumentReport]) -> None:
        """A file that no longer verifies leaves in force what held, unless that was revoked or superseded, or
        its key is gone."""
        assert self.keeper
        after = {(one.file, one.is_copy): one for one in self.keeper.reports}
        for name, held in before.items():
            now = after.get((name, False))
            if now and now.standing.state in ("malformed", "bad_signature"):
                copy = after[name, True]
                assert copy.document == held.document
                allowed = {"valid", "grace", "expired", "revoked", "superseded", "unknown_key"}
                assert copy.standing.state in allowed


def holding(keeper: LicenseKeeper) -> set[tuple[str, int]]:
    return {
        (one.document.id, one.document.serial)
        for one in keeper.reports
        if one.standing.state in HOLDS and isinstance(one.document, LicenseDocument)
    }


Sequences.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSequences = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(
    Sequences.TestCase
)
