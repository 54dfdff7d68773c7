"""Each change of a license is told once, and each notice once, whatever restarts in between."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.licensing.told import MOST_NOTICES, Told, ToldStore
from agent.daemon.reporting.allowance import Allowance
from agent.daemon.reporting.license_events import license_event
from agent.daemon.reporting.license_watch import LicenseWatch
from agent.export.envelope import severity
from agent.license.times import Edge, Notice
from tests.fixtures.vendor import Vendor, VendorKey
from tests.unit.daemon.reporting.license_world import DAY, INLINE, NOW, POLICY, TIMES, Host

EXPIRY, END = (datetime.fromisoformat(TIMES[name]) for name in ("expires_at", "terminates_at"))
HOUR = timedelta(hours=1)
FORGER = Vendor(keys=[VendorKey(9)])


class Telling:
    """A host, and the watch of its daemon. `restart` is another daemon there."""

    def __init__(self, folder: Path) -> None:
        self.host = Host(folder)
        self.now_s = 0.0
        self.most, self.per_s = 512, 1.0
        self.restart()

    def restart(self) -> None:
        self.host.restart()
        allowance = Allowance(self.most, self.per_s, lambda: self.now_s)
        self.kept = ToldStore(self.host.folder / "state/licenses")
        self.watch = LicenseWatch(self.host.reports, self.kept, allowance)

    def events(self, now: datetime | None = None, policy: str | None = None) -> list[dict[str, Any]]:
        """What is told then; `policy`: after a reload with it."""
        if now is not None:
            self.host.at(now)
        if policy is not None:
            self.host.load(policy)
        moment, news = self.watch.news()
        self.watch.store()
        return [{"type": "license", **license_event(one, moment)} for one in news]

    def told(self, now: datetime | None = None, policy: str | None = POLICY) -> list[str]:
        """In short: by whom, and what."""
        return [_short(event) for event in self.events(now, policy)]


def _short(event: dict[str, Any]) -> str:
    who = event.get("license") or event.get("file") or event.get("issuer")
    if notice := event.get("notice"):
        return f"{who} {notice['of']} {notice['days']}"
    copy = "*" * bool(event.get("is_copy"))
    return " ".join(filter(None, (f"{who}{copy}", event.get("entitlement"), event["state"])))


@pytest.fixture
def telling(tmp_path: Path) -> Telling:
    return Telling(tmp_path)


def test_a_new_document_is_told_once(telling: Telling) -> None:
    telling.host.put("a.json")
    (event,) = telling.events(policy=POLICY)
    assert event["message"].startswith(
        "acme-2026 serial 1 (Acme, production) valid, expires in 214 days (2027"
    )
    assert (event["state"], event["in_force"], event["verified"], event["file"]) == (
        "valid", True, True, "a.json",
    )  # fmt: skip
    assert "previous" not in event
    assert telling.told() == []
    telling.restart()
    assert telling.told() == []


def test_before_there_is_a_policy_nothing_is_told(telling: Telling) -> None:
    telling.host.put("a.json")
    telling.host.keeper.documents.refresh()
    assert telling.events() == []


@pytest.mark.parametrize("restarts", [False, True])
def test_each_change_is_told_when_it_comes(telling: Telling, restarts: bool) -> None:
    telling.host.put("a.json", notice_days=[1])

    def then(now: datetime) -> list[str]:
        if restarts:
            telling.restart()
            return telling.told(now)
        return telling.told(now, policy=None)

    assert telling.told() == ["acme-2026 valid"]
    assert then(EXPIRY - 2 * DAY) == []
    assert then(EXPIRY) == ["acme-2026 grace"]
    assert then(END - 2 * DAY) == ["acme-2026 grace 29"]
    assert then(END) == ["acme-2026 expired"]
    assert then(END + 99 * DAY) == []


def test_what_ended_while_no_agent_ran_is_told_by_the_next(telling: Telling) -> None:
    telling.host.put("a.json")
    telling.told()
    telling.restart()
    (event,) = telling.events(END, POLICY)
    assert (event["previous"], event["state"], event["in_force"]) == ("valid", "expired", False)


def test_the_nearest_notice_is_told_once(telling: Telling) -> None:
    telling.host.put("a.json", notice_days=[30, 7, 1])
    assert telling.told(EXPIRY - 40 * DAY) == ["acme-2026 valid"]
    assert telling.told(EXPIRY - 30 * DAY, None) == ["acme-2026 expiry 30"]
    telling.restart()
    assert telling.told(EXPIRY - 29 * DAY) == []
    telling.restart()
    assert telling.told(EXPIRY - 2 * HOUR) == ["acme-2026 expiry 1"]  # that of 7 days was missed
    assert telling.told(EXPIRY - HOUR) == []
    assert telling.told(EXPIRY) == ["acme-2026 grace"]
    assert telling.told(END - 30 * DAY) == ["acme-2026 grace 1", "acme-2026 termination 30"]


@pytest.mark.parametrize("restarts", [False, True])
def test_notices_of_a_time_that_was_given_up_come_again_in_time(telling: Telling, restarts: bool) -> None:
    """A boot with a wrong clock tells what would be due then. Once it is corrected, nothing is missing."""
    telling.host.put("a.json", notice_days=[30, 7, 1])
    assert telling.told(EXPIRY - 2 * HOUR) == ["acme-2026 valid", "acme-2026 expiry 1"]
    if restarts:
        telling.restart()
    assert telling.told(EXPIRY - 40 * DAY) == []
    assert telling.told(EXPIRY - 30 * DAY, None) == ["acme-2026 expiry 30"]
    assert telling.told(EXPIRY - 29 * DAY, None) == []
    assert telling.told(EXPIRY - 7 * DAY, None) == ["acme-2026 expiry 7"]
    assert telling.told(EXPIRY - HOUR, None) == ["acme-2026 expiry 1"]


def test_days_of_grace_that_were_given_up_come_again(telling: Telling) -> None:
    telling.host.put("a.json", notice_days=[1])
    assert telling.told(EXPIRY + 20 * DAY) == ["acme-2026 grace"]
    assert telling.told(EXPIRY - 2 * DAY) == ["acme-2026 valid"]
    assert telling.told(EXPIRY + HOUR) == ["acme-2026 grace"]
    assert telling.told(EXPIRY + DAY, None) == ["acme-2026 grace 1"]
    assert telling.told(EXPIRY + DAY + HOUR, None) == []


def test_a_renewal_begins_its_own_notices(telling: Telling) -> None:
    telling.host.put("a.json", notice_days=[7])
    assert telling.told(EXPIRY - 3 * DAY) == ["acme-2026 valid", "acme-2026 expiry 7"]
    telling.host.put("a.json", notice_days=[7], serial=2, expires_at="2027-01-03T00:00:00Z")
    assert telling.told() == ["acme-2026 valid", "acme-2026 expiry 7"]
    telling.host.put("a.json", notice_days=[7], serial=3, expires_at="2027-02-01T00:00:00Z")
    assert telling.told() == ["acme-2026 valid"]


def test_a_license_that_returns_repeats_no_notice(telling: Telling) -> None:
    telling.host.put("a.json", notice_days=[7])
    telling.told(EXPIRY - 3 * DAY)
    content = (telling.host.files / "a.json").read_bytes()
    (telling.host.files / "a.json").unlink()
    assert telling.told() == ["acme-2026 withdrawn"]
    telling.host.write("b.json", content)
    assert telling.told() == ["acme-2026 valid"]


def test_two_files_with_one_license_give_one_notice(telling: Telling) -> None:
    telling.host.put("a.json", notice_days=[7])
    telling.host.write("b.json", (telling.host.files / "a.json").read_bytes())
    found = telling.told(EXPIRY - 3 * DAY)
    assert found == ["acme-2026 valid", "acme-2026 expiry 7", "acme-2026 valid"]  # what is in force first


def test_grace_is_told_daily(telling: Telling) -> None:
    telling.host.put("a.json", notice_days=[1])
    assert telling.told(EXPIRY + 2 * DAY) == ["acme-2026 grace"]
    assert telling.told(EXPIRY + 2 * DAY + HOUR, None) == []
    assert telling.told(EXPIRY + 3 * DAY, None) == ["acme-2026 grace 3"]
    telling.restart()
    assert telling.told(EXPIRY + 3 * DAY + HOUR) == []
    assert telling.told(EXPIRY + 9 * DAY) == ["acme-2026 grace 9"]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_file_that_does_not_hold_and_its_copy_are_told(telling: Telling, restarts: bool) -> None:
    telling.host.put("a.json")
    telling.told()
    good = (telling.host.files / "a.json").read_bytes()
    telling.host.write("a.json", b"{")
    if restarts:
        telling.restart()
    copy, bad = telling.events(policy=POLICY)  # a name comes before what nobody signed
    assert (bad["file"], bad["state"], bad["verified"]) == ("a.json", "malformed", False)
    assert "license" not in bad
    assert (copy["license"], copy["is_copy"], copy["in_force"], severity(copy)) == (
        "acme-2026", True, True, "warning",
    )  # fmt: skip
    telling.host.write("a.json", good)
    assert telling.told() == ["acme-2026 valid"]


def test_a_renewal_in_advance_is_told_as_what_it_is(telling: Telling) -> None:
    telling.host.put("a.json")
    telling.told()
    telling.host.put("a.json", serial=2, starts_at="2026-07-01T00:00:00Z")
    file, copy = telling.events(policy=POLICY)
    assert (file["state"], file["serial"], copy["serial"]) == ("not_yet_valid", 2, 1)
    assert (severity(file), severity(copy)) == ("info", "info")
    assert telling.told(NOW + 30 * DAY) == ["acme-2026 valid"]  # and the copy is gone


def test_a_missing_folder_withdraws_nothing(telling: Telling) -> None:
    telling.host.put("a.json")
    telling.told()
    telling.host.files.rename(telling.host.folder / "away")
    assert telling.told() == ["acme-2026* valid"]
    (telling.host.folder / "away").rename(telling.host.files)
    assert telling.told() == ["acme-2026 valid"]


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_removed_file_is_a_license_withdrawn(telling: Telling, spoiled: bool) -> None:
    telling.host.put("a.json")
    telling.told()
    if spoiled:
        telling.host.write("a.json", b"{")
        telling.told()
    (telling.host.files / "a.json").unlink()
    telling.restart()
    (event,) = telling.events(policy=POLICY)
    assert (event["license"], event["serial"], event["state"], event["previous"]) == (
        "acme-2026", 1, "withdrawn", "valid",
    )  # fmt: skip
    assert severity(event) == "warning"
    assert event["message"] == "a.json is gone: license 'acme-2026' (serial 1) is withdrawn"
    assert telling.told() == []


def test_what_nobody_signed_gives_no_name(telling: Telling) -> None:
    telling.host.write("x.json", FORGER.sign(FORGER.license(**TIMES, id="forged")))
    (event,) = telling.events(policy=POLICY)
    assert not {"license", "serial", "issuer", "kind", "validity", "expires_at"} & set(event)
    assert event["state"] == "unknown_key"
    assert event["message"].startswith("x.json, not verified, says: forged serial 1")
    telling.host.write("x.json", FORGER.sign(FORGER.license(**TIMES, id="another")))
    assert telling.told() == []  # what it says is another text, and no other state
    (telling.host.files / "x.json").unlink()
    assert telling.told() == ["x.json withdrawn"]


def test_licenses_of_the_policy_are_told_once_there_is_something_to_do(telling: Telling) -> None:
    ends = INLINE.replace(
        "licensee: Us", "expires_at: 2026-07-01T00:00:00Z, terminates_at: 2026-08-01T00:00:00Z"
    )
    assert telling.told(policy=POLICY + ends) == []
    telling.restart()
    assert telling.told(NOW + 30 * DAY, POLICY + ends) == ["plain grace"]
    assert telling.told(NOW + 31 * DAY, None) == ["plain grace 1"]
    (event,) = telling.events(NOW + 61 * DAY, POLICY + ends)
    assert event["message"] == "license 'plain' ended at 2026-08-01 00:00 UTC: it licenses no consumer"
    (event,) = telling.events(policy=POLICY)
    assert event["message"] == "license 'plain' is no longer in the policy"


def test_an_entitlement_with_a_window_of_its_own_is_told(telling: Telling) -> None:
    part = [{"id": "app", "principals": ["billing"], "expires_at": "2026-07-01T00:00:00Z"}]
    telling.host.put("a.json", entitlements=part)
    assert telling.told() == ["acme-2026 valid"]
    assert telling.told(NOW + 30 * DAY, None) == ["acme-2026 app expired"]
    telling.restart()
    assert telling.told() == []


def test_a_revocation_list_that_is_overdue_is_told_once(telling: Telling) -> None:
    telling.host.revoke("r.json", serial=4)
    (event,) = telling.events(policy=POLICY)
    assert (event["issuer"], event["serial"], event["state"], event["in_force"]) == ("Acme", 4, "valid", True)
    (overdue,) = telling.events(NOW + 40 * DAY)
    assert (overdue["is_overdue"], severity(overdue)) == (True, "warning")
    assert "overdue since" in overdue["message"]
    telling.restart()
    assert telling.told() == []
    (telling.host.files / "r.json").unlink()
    (gone,) = telling.events(policy=POLICY)
    assert gone["message"] == "r.json is gone: what its list revokes stays revoked"


def test_a_left_out_document_is_told(telling: Telling) -> None:
    for number in range(9):
        telling.host.put(f"{number}.json", id=f"a{number}")
    last = telling.events(policy=POLICY)[-1]
    assert (last["license"], last["in_force"], severity(last)) == ("a8", False, "warning")
    assert "9 grants" in last["left_out"]


def test_files_that_flip_are_told_as_the_allowance_lets_them(telling: Telling) -> None:
    telling.most, telling.per_s = 40, 1.0
    telling.restart()
    telling.host.put("z.json")
    for number in range(60):
        telling.host.write(f"{number:02}.json", b"{")
    first = telling.told()
    assert first[0] == "acme-2026 valid"  # a name comes before what nobody signed
    assert len(first) == 40
    assert telling.told() == []
    telling.now_s += 10
    assert len(telling.told(policy=None)) == 10
    telling.host.put("z.json", serial=2)
    telling.now_s += 3
    assert telling.told()[0] == "acme-2026 valid"
    for number in range(60):
        (telling.host.files / f"{number:02}.json").unlink()
    telling.now_s += 1000
    gone = telling.told()
    assert len(gone) == 40
    telling.now_s += 1000
    assert len(gone + telling.told(policy=None)) == 39 + 10 + 2  # as many as were told of
    assert telling.told() == []


def test_documents_that_grant_nothing_hold_up_no_right(telling: Telling) -> None:
    """Another vendor's documents for other hosts come and go, each of them signed."""
    telling.most, telling.per_s = 10, 1.0
    telling.restart()
    telling.host.put("z.json")
    assert telling.told() == ["acme-2026 valid"]
    for number in range(20):
        telling.host.put(f"{number:02}.json", id=f"a{number}", node_lock={"any_of": ["hk:" + "0" * 64]})
    assert telling.told() == [f"a{number} node_mismatch" for number in range(9)]
    telling.host.put("z.json", serial=2)
    telling.now_s += 1
    assert telling.told() == ["acme-2026 valid"]
    telling.host.revoke("z2.json", licenses=[{"id": "acme-2026", "serials": "all"}])
    telling.now_s += 2
    assert sorted(telling.told()) == ["acme-2026 revoked", "z2.json valid"]


def test_a_damaged_record_costs_repetitions_only(telling: Telling) -> None:
    telling.host.put("a.json")
    telling.told()
    record = telling.host.folder / "state/licenses/told.json"
    for content in (
        "{",
        "[]",
        '{"states": [[["file"], {}]], "notices": []}',
        '{"states": [], "notices": [[]]}',
        '{"states": [[["file", "x"], []]], "notices": []}',
        '{"states": [], "notices": [["x", "expiry", "2026-01-01T00:00:00Z", 1e999]]}',
        '{"states": [], "notices": [["acme-2026", "expiry", "2027-01-01T00:00:00Z", 99999999999]]}',
        '{"states": [], "notices": [["x", "expiry", "9999-12-31T23:59:59-23:59", 1]]}',
    ):
        record.write_text(content)
        telling.restart()
        assert telling.told() == ["acme-2026 valid"]


def test_what_cannot_be_stored_is_stored_later(telling: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("agent.system.files.write_text", full)
        telling.host.put("a.json")
        assert telling.told() == ["acme-2026 valid"]
        assert "No space left" in telling.kept.problem
    telling.kept.retry()
    assert telling.kept.problem == ""
    telling.restart()
    assert telling.told() == []


def test_notices_that_come_at_once_say_which_they_are(telling: Telling) -> None:
    telling.host.put("a.json", notice_days=[60, 30])
    messages = [event["message"] for event in telling.events(EXPIRY - 20 * DAY, POLICY)]
    valid = messages[0]
    assert valid.endswith("valid, expires in 20 days (2027-01-01 00:00 UTC), then 31 days of grace")
    assert messages == [
        valid,
        f"{valid}; notice of 30 days before expiry",
        f"{valid}; notice of 60 days before termination (2027-02-01 00:00 UTC)",
    ]
    (_, grace) = (telling.events(EXPIRY), telling.events(EXPIRY + 3 * DAY)[0])
    assert grace["message"].endswith("grace, ends in 28 days (2027-02-01 00:00 UTC); expired 3 days ago")


def test_notices_of_licenses_that_are_gone_are_bounded() -> None:
    told = Told()
    for number in range(MOST_NOTICES + 5):
        told.note(f"l{number}", Notice(Edge.EXPIRY, NOW + number * DAY, 7))
    told.note("there", Notice(Edge.EXPIRY, NOW, 7))
    told.forget({"there"})
    assert len(told.notices) == MOST_NOTICES + 1
    assert ("there", Edge.EXPIRY) in told.notices
    assert ("l4", Edge.EXPIRY) not in told.notices
    assert Told.from_json(told.to_json()) == told
