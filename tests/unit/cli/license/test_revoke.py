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
