"""What is known of each license: state, what is in force, and by whose word."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from agent.daemon.reporting.licenses import NOT_SIGNED, warnings_now
from agent.export.families import encoder, written
from agent.export.license_metrics import licenses
from agent.export.license_text import license_line
from agent.license.clock import Moment
from agent.license.report import State
from agent.license.times import Change
from tests.fixtures.metrics_text import parse_metrics, total
from tests.fixtures.vendor import Vendor, VendorKey
from tests.unit.daemon.reporting.license_world import DAY, INLINE, NOW, POLICY, TIMES, Host, shown

EXPIRY, END = (datetime.fromisoformat(TIMES[name]) for name in ("expires_at", "terminates_at"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_document_is_told_with_all_that_it_says(host: Host) -> None:
    host.put("a.json", hosts=4, supersedes=["old"], notice_days=[9], extensions={"order": "1"}, serial=3)
    (one,) = host.load().listed
    assert (one.id, one.serial, one.issuer, one.licensee, one.product, one.kind) == (
        ("acme-2026", 3, "Acme", "Example Ltd", "acme-orders", "production")
    )  # fmt: skip
    assert (one.file, one.rule, one.key) == ("a.json", "a.json", VendorKey(1).kid)
    assert one.signed
    assert one.verified
    assert one.in_force
    assert one.next == Change(State.GRACE, EXPIRY)
    assert (one.hosts, one.supersedes, one.notice_days, one.extensions) == (4, ("old",), (9,), {"order": "1"})


def test_a_license_of_the_policy_is_told_as_unsigned(host: Host) -> None:
    (one,) = host.load(POLICY + INLINE).listed
    assert (one.id, one.licensee, one.product, one.state, one.in_force) == (
        "plain", "Us", "acme-orders", State.VALID, True,
    )  # fmt: skip
    assert not one.signed
    assert not one.verified
    assert one.serial is None
    assert one.rule.endswith("policy.yaml:5")


def test_only_what_the_kernel_judges_by_is_in_force(host: Host) -> None:
    host.put("a.json")
    assert shown(host.reports.now()) == {}  # nothing was read yet
    assert shown(host.load()) == {"a.json!": "valid"}
    host.put("b.json", id="b")
    host.keeper.documents.refresh()  # read, and not compiled
    assert shown(host.reports.now()) == {"a.json!": "valid"}
    host.load()
    assert shown(host.reports.now()) == {"a.json!": "valid", "b.json!": "valid"}


def test_without_a_policy_no_document_is_in_force(host: Host) -> None:
    host.put("a.json")
    host.keeper.reload()
    assert shown(host.reports.now()) == {"a.json": "valid"}


def test_the_state_follows_the_time_without_another_look(host: Host) -> None:
    host.put("a.json")
    host.load()
    assert shown(host.at(EXPIRY - DAY / 100)) == {"a.json!": "valid"}
    assert shown(host.at(EXPIRY)) == {"a.json!": "grace"}
    assert shown(host.at(END)) == {"a.json": "expired"}
    assert host.reports.now().listed[0].next is None


def test_a_file_that_does_not_hold_is_told_beside_its_copy(host: Host) -> None:
    host.put("a.json")
    host.load()
    host.write("a.json", b"{")
    found = host.load()
    assert shown(found) == {"a.json": "malformed", "a.json*!": "valid"}
    assert found.files == {State.MALFORMED: 1}
    assert found.by_id()["acme-2026"].is_copy


def copies_in_force(host: Host) -> float:
    text = b"".join(written(licenses(host.reports.now(), 0), encoder("")[0])).decode()
    return total(parse_metrics(text), "licet_license_copy_in_force")


def test_a_renewal_in_advance_is_no_file_that_does_not_hold(host: Host) -> None:
    host.put("a.json")
    host.load()
    host.put("a.json", serial=2, starts_at="2026-07-01T00:00:00Z")
    file, copy = host.load().listed
    assert (file.state, file.in_force, copy.state, copy.in_force) == (
        State.NOT_YET_VALID, False, State.VALID, True,
    )  # fmt: skip
    assert copy.waits_for_file
    line = license_line(copy.fields(), NOW)
    assert line.endswith("; it stays in force until the document in a.json begins")
    assert copies_in_force(host) == 0
    host.write("a.json", b"{")
    assert not host.load().listed[1].waits_for_file
    assert copies_in_force(host) == 1


def test_of_files_with_one_id_the_one_in_force_counts(host: Host) -> None:
    host.put("a.json", serial=2)
    host.put("b.json", serial=1)
    host.put("c.json", serial=3, node_lock={"any_of": ["hk:" + "2" * 64]})
    found = host.load()
    assert shown(found) == {"a.json!": "valid", "b.json": "superseded", "c.json": "node_mismatch"}
    assert found.by_id()["acme-2026"].file == "a.json"
    (host.files / "a.json").unlink()
    assert host.load().by_id()["acme-2026"].file == "c.json"


def test_what_nobody_signed_has_no_name(host: Host) -> None:
    forger = Vendor(keys=[VendorKey(9)])
    host.write("x.json", forger.sign(forger.license(**TIMES, id="forged", extensions={"a": "b"})))
    found = host.load()
    assert shown(found) == {"x.json": "unknown_key"}
    assert found.by_id() == {}
    (one,) = found.listed
    assert (one.id, one.verified, one.validity, one.extensions) == ("forged", False, None, {})


def test_a_forged_document_takes_no_id_from_a_license_of_the_policy(host: Host) -> None:
    forger = Vendor(keys=[VendorKey(9)])
    host.write("x.json", forger.sign(forger.license(**TIMES, id="plain")))
    assert not host.load(POLICY + INLINE).by_id()["plain"].signed


@pytest.mark.parametrize("name", ["0.json", "z.json"])
def test_another_vendor_takes_no_id(host: Host, name: str) -> None:
    """Its key is pinned, for the same product, and its document is signed and newer."""
    other = Vendor(issuer="Other", keys=[VendorKey(7)])
    other.pin(host.folder / "keys")
    host.put("a.json", serial=3)
    before = host.load().by_id()
    text = other.license(**TIMES, serial=9, entitlements=[{"id": "app", "principals": ["billing"]}])
    host.write(name, other.sign(text))
    found = host.load()
    assert shown(found) == {"a.json!": "valid", name: "unknown_key"}
    assert found.by_id() == before
    (claim,) = (one for one in found.listed if one.file == name)
    assert (claim.is_named, claim.why) == (False, "issuer 'Acme' has this id")


def test_a_license_of_the_policy_gives_way_to_the_document(host: Host) -> None:
    host.put("a.json", id="plain")
    found = host.load(POLICY + INLINE)
    assert shown(found) == {"plain": "superseded", "a.json!": "valid"}
    assert "a.json" in found.listed[0].why
    assert found.by_id()["plain"].signed


def test_where_only_signed_licenses_grant(host: Host) -> None:
    host.restart(require_signed=True)
    found = host.load(POLICY + INLINE)
    assert found.require_signed
    assert shown(found) == {"plain": "bad_signature"}
    assert found.listed[0].why == NOT_SIGNED


def test_what_does_not_fit_is_told_with_the_reason(host: Host) -> None:
    for number in range(9):
        host.put(f"{number}.json", id=f"a{number}")
    found = host.load()
    assert [one.file for one in found.listed if not one.in_force] == ["8.json"]
    last = found.listed[-1]
    assert (last.state, "9 grants" in last.left_out) == (State.VALID, True)


def test_a_revocation_list_outlives_its_file(host: Host) -> None:
    host.put("a.json")
    host.revoke("r.json", serial=4, licenses=[{"id": "acme-2026", "serials": "all"}])
    found = host.load()
    assert shown(found) == {"a.json": "revoked"}
    (listed,) = found.revocations
    assert (listed.file, listed.serial, listed.in_force, listed.licenses) == ("r.json", 4, True, 1)
    assert found.files == {State.REVOKED: 1, State.VALID: 1}
    (host.files / "r.json").unlink()
    host.load()
    after = host.at(NOW + 40 * DAY)
    (listed,) = after.revocations
    assert (listed.in_force, listed.is_overdue, "gone" in listed.why) == (True, True, True)
    assert list(after.next_updates()) == ["Acme"]


def test_an_unsigned_twin_does_not_hide_the_list_in_force(host: Host) -> None:
    host.revoke("r.json", licenses=[{"id": "acme-2026", "serials": "all"}])
    host.load()
    host.revoke("r.json", VendorKey(9), licenses=[{"id": "acme-2026", "serials": "all"}])
    found = host.load().revocations
    assert [(one.state, one.in_force) for one in found] == [
        (State.UNKNOWN_KEY, False), (State.VALID, True),
    ]  # fmt: skip


def test_of_several_lists_of_an_issuer_the_earliest_update_counts(host: Host) -> None:
    first, second = host.vendor.keys
    host.revoke("r.json", first)
    host.revoke("s.json", second, next_update="2026-08-01T00:00:00Z")
    assert host.load().next_updates() == {"Acme": datetime.fromisoformat("2026-07-01T00:00:00Z")}


def test_warnings_name_what_ended_and_what_is_wrong_with_the_folders(host: Host) -> None:
    host.put("a.json")
    host.put("b.json", serial=0 + 2)  # the newer document of the same license
    host.load()
    assert list(warnings_now(host.keeper)) == []
    host.at(EXPIRY)
    assert [str(one).partition(":")[0] for one in warnings_now(host.keeper)] == ["b.json"]
    host.files.rename(host.folder / "away")
    host.keeper.documents.refresh()
    gone = "the folder is gone; its licenses stay in force (bring the folder back, with its files)"
    assert f"{host.files}: {gone}" in [str(one) for one in warnings_now(host.keeper)]
    assert host.keeper.documents.problem == f"{host.files}: the folder is gone"


def test_a_start_goes_by_the_later_clock(host: Host) -> None:
    host.put("a.json", starts_at="2026-06-02T00:00:00Z")
    assert shown(host.load()) == {"a.json": "not_yet_valid"}
    host.clock.now = Moment(NOW, NOW + DAY)
    assert shown(host.reports.now()) == {"a.json!": "valid"}
