"""Revocation lists: what is in them, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.license.envelope import read_envelope
from agent.license.payload import read_revocations
from agent.license.values import RevocationList, RevokedLicense
from agent.model import show_time
from tests.unit.cli.license.vendor import Ended, Vendor

BASE = ("--issuer", "Acme", "--serial", "1", "--next-update", "2099-03-31")


def revoke(vendor: Vendor, *more: str, base: tuple[str, ...] = BASE) -> Ended:
    if not (vendor.folder / "acme.pem").exists():
        vendor.key()
    return vendor.run("revoke", *base, *more, "--key", "acme.pem", "--passphrase-file", vendor.passphrase())


def list_in(file: Path) -> RevocationList:
    return read_revocations(read_envelope(file.read_bytes()).payload)


def kid_of_file(vendor: Vendor, name: str) -> str:
    return str(yaml.safe_load((vendor.folder / name).read_text())["kid"])


def test_a_list_has_licenses_serials_and_keys(vendor: Vendor) -> None:
    given = ("--license", "a", "--license", "b:1,2", "--license", "b:3", "--license", "c:9", "--license", "c")
    made = revoke(vendor, *given, "--key-id", "ab" * 32)
    assert made.code == 0, made.err
    file = vendor.folder / "acme-revocations-1.json"
    assert file.stat().st_mode & 0o777 == 0o644
    found = list_in(file)
    assert found.licenses == (
        RevokedLicense("a", None),
        RevokedLicense("b", frozenset({1, 2, 3})),
        RevokedLicense("c", None),
    )
    assert found.keys == ("ab" * 32,)
    assert show_time(found.next_update) == "2099-04-01T00:00:00Z"
    assert "b, serials 1, 2, 3" in made.out


def test_a_list_may_revoke_nothing_yet(vendor: Vendor) -> None:
    made = revoke(vendor)
    assert made.code == 0
    assert "revokes nothing" in made.out


def test_a_key_cannot_revoke_itself(vendor: Vendor) -> None:
    vendor.key()
    made = revoke(vendor, "--key-id", kid_of_file(vendor, "acme.yaml"))
    assert made.code == 3
    assert "the list revokes the key that signs it: sign it with another key of the issuer" in made.err
    assert "acme-revocations-1.json" not in vendor.names()


def test_another_key_of_the_issuer_revokes_it(vendor: Vendor) -> None:
    vendor.key()
    vendor.key("other", "--may", "revoke")
    kid = kid_of_file(vendor, "acme.yaml")
    made = revoke(vendor, "--key-id", kid, "--key", "other.pem")
    assert made.code == 0, made.err
    assert list_in(vendor.folder / "acme-revocations-1.json").keys == (kid,)


def test_two_keys_that_sign_a_list_of_both_are_refused(vendor: Vendor) -> None:
    vendor.key()
    vendor.key("other")
    kids = [word for name in ("acme", "other") for word in ("--key-id", kid_of_file(vendor, f"{name}.yaml"))]
    assert revoke(vendor, *kids, "--key", "other.pem").code == 3


def test_a_key_that_may_only_license_revokes_nothing(vendor: Vendor) -> None:
    vendor.key("acme", "--may", "license")
    made = revoke(vendor, "--license", "a")
    assert made.code == 3
    assert "the key may not revoke: its YAML has may: license" in made.err


def test_a_key_of_another_issuer_revokes_nothing(vendor: Vendor) -> None:
    base = ("--issuer", "Bolt", *BASE[2:])
    made = revoke(vendor, "--license", "a", base=base)
    assert made.code == 3
    assert "the key is of issuer 'Acme', and the document of 'Bolt'" in made.err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--license", "a:"), "--license: a: a whole number from 1 to 9007199254740991 is expected"),
        (("--license", "a:0"), "--license: a: a whole number from 1 to 9007199254740991 is expected, not 0"),
        (("--license", "a:1,x"), "--license: a: a whole number"),
        (("--license", "a b"), "--license: licenses[0].id: 'a b' is not a valid name"),
        (("--key-id", "AB" * 32), "--key-id: keys[0]: "),
        (("--key-id", "ab" * 32, "--key-id", "ab" * 32), "--key-id: keys[1]: "),
        (("--next-update", "2020-01-01"), "--next-update: next_update is not after issued_at"),
        (("--next-update", "soon"), "--next-update: 'soon' is not valid: write a day"),
        (("--serial", "-1"), "--serial: a whole number from 1 to 9007199254740991 is expected, not -1"),
        (("--issuer", "\u202e"), "--issuer: issuer: "),
    ],
)
def test_a_mistake_names_the_option(vendor: Vendor, more: tuple[str, ...], told: str) -> None:
    made = revoke(vendor, *more)
    assert (made.code, made.out) == (2, "")
    assert told in made.err
    assert "acme-revocations-1.json" not in vendor.names()


@pytest.mark.parametrize("left_out", [0, 2, 4])
def test_what_a_list_needs_is_asked_for(vendor: Vendor, left_out: int) -> None:
    base = BASE[:left_out] + BASE[left_out + 2 :]
    made = revoke(vendor, base=base)
    assert made.code == 2
    assert f"{BASE[left_out]} is missing" in made.err


def test_nothing_is_overwritten(vendor: Vendor) -> None:
    assert revoke(vendor).code == 0
    assert revoke(vendor).code == 1


def continued(vendor: Vendor, *more: str, file: str = "acme-revocations-1.json") -> Ended:
    return revoke(vendor, *more, base=("--from", file, "--next-update", "2099-03-31"))


def test_a_list_from_an_earlier_one_keeps_what_that_revokes(vendor: Vendor) -> None:
    first = ("--license", "a:1", "--license", "b", "--license", "c:2,3", "--key-id", "ab" * 32)
    assert revoke(vendor, *first).code == 0
    made = continued(vendor, "--license", "c:4", "--license", "a", "--license", "b:1", "--license", "d:1")
    assert (made.code, made.err) == (0, "")
    found = list_in(vendor.folder / "acme-revocations-2.json")
    assert (found.issuer, found.serial, found.keys) == ("Acme", 2, ("ab" * 32,))
    assert found.licenses == (
        RevokedLicense("a", None),
        RevokedLicense("b", None),
        RevokedLicense("c", frozenset({2, 3, 4})),
        RevokedLicense("d", frozenset({1})),
    )
    made = continued(vendor, "--key-id", "ab" * 32, "--key-id", "cd" * 32, file="acme-revocations-2.json")
    assert made.code == 0
    third = list_in(vendor.folder / "acme-revocations-3.json")
    assert (third.licenses, third.keys) == (found.licenses, ("ab" * 32, "cd" * 32))


def test_a_higher_serial_without_the_earlier_list_is_hinted_at(vendor: Vendor) -> None:
    told = "what only that one revokes is revoked no more; --from FILE keeps what a list revokes"
    assert told not in revoke(vendor, "--license", "a").err
    assert told in revoke(vendor, "--serial", "2").err


def test_a_serial_may_be_skipped_and_not_go_back(vendor: Vendor) -> None:
    assert revoke(vendor, "--serial", "4").code == 0
    for serial in ("3", "4"):
        made = continued(vendor, "--serial", serial, file="acme-revocations-4.json")
        assert made.code == 2
        assert "--serial: acme-revocations-4.json has serial 4, and the list that follows" in made.err
    assert continued(vendor, "--serial", "9", file="acme-revocations-4.json").code == 0
    assert list_in(vendor.folder / "acme-revocations-9.json").serial == 9


def test_a_list_of_another_issuer_is_not_continued(vendor: Vendor) -> None:
    assert revoke(vendor).code == 0
    made = continued(vendor, "--issuer", "Bolt")
    assert made.code == 2
    assert "--issuer: acme-revocations-1.json is of issuer 'Acme': leave --issuer out" in made.err


def test_an_earlier_list_that_another_key_has_signed_is_a_warning(vendor: Vendor) -> None:
    assert revoke(vendor, "--license", "a").code == 0
    vendor.key("other")
    made = vendor.run(
        *("revoke", "--from", "acme-revocations-1.json", "--next-update", "2099-03-31"),
        *("--key", "other.pem", "--passphrase-file", vendor.passphrase()),
    )
    assert made.code == 0
    assert "warning: acme-revocations-1.json: none of these keys has signed it" in made.err
    assert list_in(vendor.folder / "acme-revocations-2.json").licenses == (RevokedLicense("a", None),)


def test_what_is_no_list_is_not_continued(vendor: Vendor) -> None:
    vendor.key()
    made = vendor.run(
        "issue", vendor.template(), "--key", "acme.pem", "--passphrase-file", vendor.passphrase()
    )
    assert made.code == 0
    (vendor.folder / "half.json").write_text("{")
    told = {"acme-2026-3.json": "it is a license", "half.json": "not JSON", "none.json": "cannot be read"}
    for file, why in told.items():
        made = continued(vendor, file=file)
        assert made.code == 1
        assert f"licet: {file}: {why}" in made.err
