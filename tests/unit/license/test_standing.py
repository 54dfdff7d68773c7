"""Every way to be invalid, in order: the first that applies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.license.clock import Moment
from agent.license.report import State
from agent.license.revocations import Revoked
from agent.license.serials import Serials
from agent.license.standing import Judge, Opened, establish
from agent.license.values import (
    ClockRule,
    DocumentEntitlement,
    Kind,
    LicenseDocument,
    NodeLock,
    Permission,
    PinnedKey,
    RevocationList,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOST = "hk:" + "1" * 64
A, B, STRANGE = "a" * 64, "b" * 64, "c" * 64


def key(kid: str = A, **changes: object) -> PinnedKey:
    both = frozenset(Permission)
    return replace(PinnedKey(kid, "Acme", ("orders",), b"\1" * 32, both), **changes)


def document(**changes: object) -> LicenseDocument:
    made = LicenseDocument(
        "acme-2026",
        3,
        "Acme",
        "Example Ltd",
        "orders",
        Kind.PRODUCTION,
        NOW - 30 * DAY,
        NOW - 30 * DAY,
        (DocumentEntitlement("app", ("anyone",)),),
        NOW + 30 * DAY,
        NOW + 60 * DAY,
    )
    return replace(made, **changes)


def opened(made: LicenseDocument | None = None, **changes: object) -> Opened:
    made = made or document()
    return replace(Opened("a.json", made, f"digest of {made.serial}", (A,), frozenset({A})), **changes)


def judge(*keys: PinnedKey, now: datetime = NOW, wall: datetime | None = None, **changes: object) -> Judge:
    made = Judge(keys or (key(),), frozenset({HOST}), Moment(now, wall or now), Serials())
    return replace(made, **changes)


def state(one: Opened, by: Judge | None = None) -> State:
    return (by or judge()).standing(one)[0].state


def superseded() -> Serials:
    serials = Serials()
    serials.note(document(serial=4), "digest of 4", A)
    return serials


REVOKED = Revoked(frozenset(), {("Acme", "acme-2026"): frozenset({3})})
WAYS = [
    ("unknown_key", {"verified": frozenset(), "hints": (STRANGE,)}, {}, {}),
    ("bad_signature", {"verified": frozenset()}, {}, {}),
    ("revoked", {}, {}, {"revoked": REVOKED}),
    ("superseded", {}, {}, {"serials": superseded()}),
    ("node_mismatch", {}, {"node_lock": NodeLock(("hk:" + "2" * 64,))}, {}),
    ("clock_rollback", {}, {"clock": ClockRule.STRICT}, {"moment": Moment(NOW, NOW - 2 * DAY)}),
    ("not_yet_valid", {}, {"starts_at": NOW + 5 * DAY}, {}),
    ("expired", {}, {"expires_at": NOW - 20 * DAY, "terminates_at": NOW - 10 * DAY}, {}),
]


def test_one_that_holds() -> None:
    assert state(opened()) is State.VALID
    assert state(opened(document(expires_at=NOW))) is State.GRACE
    assert (
        state(opened(document(expires_at=None, terminates_at=None)), judge(now=NOW + 9999 * DAY))
        is State.VALID
    )


@pytest.mark.parametrize(("name", "file", "content", "around"), WAYS, ids=[way[0] for way in WAYS])
def test_each_way(name: str, file: dict[str, Any], content: dict[str, Any], around: dict[str, Any]) -> None:
    assert state(opened(document(**content), **file), judge(**around)) == name


@pytest.mark.parametrize("first", range(len(WAYS) - 2), ids=[way[0] for way in WAYS[:-2]])
def test_the_first_that_applies(first: int) -> None:
    """All later ways apply, too, but for two that exclude each other."""
    file: dict[str, Any] = {}
    content: dict[str, Any] = {}
    around: dict[str, Any] = {}
    for name, more_file, more_content, more_around in reversed(WAYS[first:]):
        if not (name == "not_yet_valid" and "terminates_at" in content):
            file |= more_file
            content |= more_content
            around |= more_around
    assert state(opened(document(**content), **file), judge(**around)) == WAYS[first][0]


@pytest.mark.parametrize(
    "limited",
    [
        {"issuer": "Other"},
        {"products": ("billing",)},
        {"may": frozenset({Permission.REVOKE})},
        {"valid_until": NOW - 30 * DAY},
        {"valid_from": NOW - 29 * DAY},
    ],
)
def test_a_key_that_may_not_sign_it(limited: dict[str, Any]) -> None:
    found, kid = judge(key(**limited)).standing(opened())
    assert (found.state, kid) == (State.UNKNOWN_KEY, "")


def test_one_signature_is_enough() -> None:
    both = judge(key(A, valid_until=NOW - 100 * DAY), key(B))
    assert state(opened(hints=(A, B), verified=frozenset({B})), both) is State.VALID


def test_a_key_id_is_only_a_hint() -> None:
    assert state(opened(hints=(STRANGE,))) is State.VALID
    assert state(opened(hints=("",))) is State.VALID
    assert state(opened(hints=("",), verified=frozenset())) is State.BAD_SIGNATURE


def test_an_id_that_another_issuer_has() -> None:
    serials = Serials()
    serials.note(document(issuer="Other"), "digest", B)
    others = key(B, issuer="Other")
    assert state(opened(), judge(key(), others, serials=serials)) is State.UNKNOWN_KEY
    # an issuer without a pinned key has nothing
    assert state(opened(), judge(key(), serials=serials)) is State.VALID


def test_a_document_of_a_revoked_key() -> None:
    revoked = Revoked(frozenset({("Acme", A)}))
    assert state(opened(), judge(key(), key(B), revoked=revoked)) is State.REVOKED
    assert state(opened(verified=frozenset({A, B})), judge(key(), key(B), revoked=revoked)) is State.VALID


def test_what_a_revoked_key_raised_is_forgotten() -> None:
    serials = Serials()
    serials.note(document(serial=(1 << 53) - 1), "poison", B)
    by = judge(key(), key(B), serials=serials)
    assert state(opened(), by) is State.SUPERSEDED
    assert state(opened(), replace(by, revoked=Revoked(frozenset({("Acme", B)})))) is State.VALID
    assert state(opened(), replace(by, pinned=(key(),))) is State.VALID


def test_the_same_serial_with_another_content_is_superseded() -> None:
    serials = Serials()
    serials.note(document(), "digest of 3", A)
    assert state(opened(), judge(serials=serials)) is State.VALID
    assert state(opened(digest="other"), judge(serials=serials)) is State.SUPERSEDED
    # the same content, signed by the next key
    again = opened(verified=frozenset({B}))
    assert state(again, judge(key(), key(B), serials=serials)) is State.VALID


def test_a_renewal_supersedes_only_once_it_holds() -> None:
    old = opened()
    new = opened(document(serial=4, starts_at=NOW + 10 * DAY), file="b.json")
    before = judge()
    assert establish(before, [old, new])
    assert [state(one, before) for one in (old, new)] == [State.VALID, State.NOT_YET_VALID]
    after = judge(now=NOW + 10 * DAY, serials=before.serials)
    assert establish(after, [old, new])
    assert [state(one, after) for one in (old, new)] == [State.SUPERSEDED, State.VALID]
    assert not establish(after, [old, new])


@pytest.mark.parametrize(
    "does_not_hold",
    [
        {"node_lock": NodeLock(("hk:" + "2" * 64,))},
        {"expires_at": NOW - 2 * DAY, "terminates_at": NOW - DAY},
        {"starts_at": NOW + DAY},
    ],
)
def test_a_serial_counts_only_after_all_else_held(does_not_hold: dict[str, Any]) -> None:
    by = judge()
    establish(by, [opened(), opened(document(serial=9, **does_not_hold), file="b.json")])
    assert state(opened(), by) is State.VALID


def test_a_license_that_another_supersedes() -> None:
    by = judge()
    old, new = opened(document(id="acme-2025")), opened(document(supersedes=("acme-2025",)), file="b.json")
    establish(by, [old, new])
    assert [state(one, by) for one in (old, new)] == [State.SUPERSEDED, State.VALID]
    # it stays so when the file of the new one is gone, and after a restart
    assert state(old, judge(serials=Serials.from_json(by.serials.to_json()))) is State.SUPERSEDED


def test_of_two_that_supersede_each_other_the_newer_holds() -> None:
    by = judge()
    old = opened(document(id="x", supersedes=("y",), issued_at=NOW - 20 * DAY))
    new = opened(document(id="y", supersedes=("x",), issued_at=NOW - 10 * DAY), file="b.json")
    establish(by, [old, new])
    assert [state(one, by) for one in (old, new)] == [State.SUPERSEDED, State.VALID]


def test_clock_rules() -> None:
    strict = opened(document(clock=ClockRule.STRICT))
    behind = NOW - timedelta(hours=24)
    assert state(strict, judge(wall=behind)) is State.VALID
    assert state(strict, judge(wall=behind - timedelta(seconds=1))) is State.CLOCK_ROLLBACK
    assert state(opened(), judge(wall=NOW - 400 * DAY)) is State.VALID
    assert state(strict, judge(wall=NOW + 400 * DAY)) is State.VALID


def test_the_start_goes_by_the_later_clock_and_the_end_by_license_time() -> None:
    early = opened(document(starts_at=NOW + DAY))
    assert state(early, judge(wall=NOW + DAY)) is State.VALID
    assert state(early, judge(now=NOW + DAY, wall=NOW - DAY)) is State.VALID
    assert state(opened(), judge(wall=NOW + 400 * DAY)) is State.VALID
    assert state(opened(), judge(now=NOW + 400 * DAY, wall=NOW)) is State.EXPIRED


def test_no_verdict_is_none() -> None:
    assert state(opened(verified=None)) is State.UNVERIFIED


def test_a_list_that_revokes_its_only_signer() -> None:
    listed = RevocationList("Acme", 1, NOW, NOW + DAY, (), (A,))
    one = Opened("r.json", listed, "digest", (A,), frozenset({A}))
    assert judge().list_standing(one).state is State.UNKNOWN_KEY
    both = replace(one, verified=frozenset({A, B}))
    assert judge(key(), key(B)).list_standing(both).state is State.VALID
