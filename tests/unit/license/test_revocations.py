"""Which keys and licenses the newest revocation lists revoke."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agent.license.revocations import SignedList, newest, revoked_by
from agent.license.values import RevocationList, RevokedLicense

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def listed(
    signers: str,
    revokes: str = "",
    serial: int = 1,
    licenses: tuple[RevokedLicense, ...] = (),
    issuer: str = "Acme",
) -> SignedList:
    content = RevocationList(issuer, serial, NOW, NOW + timedelta(days=30), licenses, tuple(revokes))
    return SignedList(content, frozenset(signers))


def keys_of(*lists: SignedList) -> str:
    return "".join(sorted(kid for _, kid in revoked_by(lists).keys))


@pytest.mark.parametrize(
    ("lists", "revoked"),
    [
        ([], ""),
        ([listed("a", "b")], "b"),
        ([listed("a", "bc")], "bc"),
        ([listed("a", "b"), listed("b", "a")], "ab"),
        ([listed("a", "b"), listed("b", "c")], "b"),
        ([listed("b", "c"), listed("a", "b")], "b"),
        ([listed("a", "b"), listed("b", "c"), listed("c", "d")], "bd"),
        ([listed("a", "b"), listed("b", "c"), listed("c", "a")], "abc"),
        ([listed("a", "b"), listed("b", "a"), listed("a", "c", serial=2)], "a"),
        ([listed("a", "b"), listed("b", "a"), listed("c", "a")], "a"),
        ([listed("ab", "a")], "a"),
        ([listed("ab", "a"), listed("c", "b")], "b"),
        ([listed("ab", "c"), listed("c", "a")], "c"),
    ],
    ids=[
        "nothing",
        "one",
        "two",
        "two keys that revoke each other",
        "what a revoked key revoked is forgotten",
        "the order of lists does not matter",
        "a chain",
        "a circle",
        "only the newest list of a key counts",
        "a third key decides between two",
        "a list may revoke one of its signers",
        "a list falls with the signer that stands for it",
        "a list stands with one of its signers",
    ],
)
def test_revoked_keys(lists: list[SignedList], revoked: str) -> None:
    assert keys_of(*lists) == revoked
    assert keys_of(*reversed(lists)) == revoked


def test_issuers_share_nothing() -> None:
    found = revoked_by([listed("a", "b", issuer="Acme"), listed("b", "a", issuer="Other")])
    assert found.keys == {("Acme", "b"), ("Other", "a")}


def test_licenses_of_a_revoked_key_are_forgotten() -> None:
    by_b = listed("b", licenses=(RevokedLicense("x", None),))
    assert revoked_by([by_b]).licenses == {("Acme", "x"): None}
    assert revoked_by([by_b, listed("a", "b")]).licenses == {}


def test_serials_of_several_lists_join_and_all_wins() -> None:
    first = listed("a", licenses=(RevokedLicense("x", frozenset({1})), RevokedLicense("y", None)))
    second = listed("b", licenses=(RevokedLicense("x", frozenset({3})), RevokedLicense("y", frozenset({2}))))
    for lists in ([first, second], [second, first]):
        assert revoked_by(lists).licenses == {("Acme", "x"): frozenset({1, 3}), ("Acme", "y"): None}


def test_of_two_lists_with_one_serial_the_first_counts() -> None:
    first, second = listed("a", "b"), listed("a", "c")
    assert newest([first, second]) == {("Acme", "a"): first}
