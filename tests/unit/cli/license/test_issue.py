"""Issuing: what a template becomes, who signs it, and what is refused before anything is written."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from agent.license.envelope import read_envelope
from agent.license.payload import read_license
from agent.license.signatures import public_bytes, verify_one
from agent.license.values import LicenseDocument
from agent.model import show_time
from tests.unit.cli.license.vendor import PASSPHRASE, Vendor
from tests.unit.license.documents import license_raw

YAML = """\
id: acme-2026
serial: 7
issuer: Acme
licensee: "Example Ltd"
product: acme-orders
kind: production
issued_at: 2026-01-01 00:00:00Z
period: {every: quarter, from: 2026-01-01}
entitlements:
  - {id: app, principals: [billing]}
"""


def document_in(file: Path) -> LicenseDocument:
    return read_license(read_envelope(file.read_bytes()).payload)


def issue(vendor: Vendor, template: str, *more: str, key: str = "acme.pem") -> Any:
    if not (vendor.folder / key).exists():
        vendor.key(Path(key).stem)
    return vendor.run("issue", template, "--key", key, "--passphrase-file", vendor.passphrase(), *more)


def test_a_json_template_becomes_a_signed_document(vendor: Vendor) -> None:
    made = issue(vendor, vendor.template())
    assert (made.code, made.err) == (0, "")
    file = vendor.folder / "acme-2026-3.json"
    assert file.stat().st_mode & 0o777 == 0o644
    envelope = read_envelope(file.read_bytes())
    public_key = public_bytes(vendor.open_key(vendor.folder / "acme.pem"))
    assert verify_one(public_key, envelope.message, envelope.signatures[0].value)
    assert document_in(file).node_lock is not None
    assert document_in(file).extensions == {"order": "4711"}


def test_a_yaml_template_says_the_same(vendor: Vendor) -> None:
    (vendor.folder / "acme.yml").write_text(YAML)
    made = issue(vendor, "acme.yml", "--until", "2027-03-31")
    assert made.code == 0, made.err
    document = document_in(vendor.folder / "acme-2026-7.json")
    assert show_time(document.issued_at) == "2026-01-01T00:00:00Z"
    assert (document.period.every, str(document.period.start)) == ("quarter", "2026-01-01")


def test_a_template_comes_through_a_pipe(vendor: Vendor) -> None:
    reader, writer = os.pipe()
    os.write(writer, YAML.encode())
    os.close(writer)
    made = issue(vendor, f"/dev/fd/{reader}")
    os.close(reader)
    assert made.code == 0, made.err


def test_a_key_comes_through_a_pipe(vendor: Vendor) -> None:
    pem = vendor.key().read_bytes()
    reader, writer = os.pipe()
    os.write(writer, pem)
    os.close(writer)
    made = issue(vendor, vendor.template(), key=f"/dev/fd/{reader}")
    os.close(reader)
    assert made.code == 0, made.err


def test_json_is_read_as_json_is(vendor: Vendor) -> None:
    """YAML reads 1e3 as text, and knows no pairs of surrogates."""
    template = json.dumps(license_raw()).replace('"4711"', '{"factor": 1e3, "mark": "\\ud83d\\ude80"}')
    (vendor.folder / "a.json").write_text(template)
    assert issue(vendor, "a.json").code == 0
    found = document_in(vendor.folder / "acme-2026-3.json").extensions
    assert found == {"order": {"factor": 1000.0, "mark": "\U0001f680"}}


def test_until_is_the_end_of_that_day_in_utc_and_local_time_is_beside_it(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        made = issue(vendor, vendor.template(terminates_at=None), "--until", "2026-12-31", "--grace", "31")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert made.code == 0, made.err
    document = document_in(vendor.folder / "acme-2026-3.json")
    assert document.expires_at is not None
    assert document.terminates_at is not None
    assert show_time(document.expires_at) == "2027-01-01T00:00:00Z"
    assert show_time(document.terminates_at) == "2027-02-01T00:00:00Z"
    assert "2027-01-01 00:00 UTC (2027-01-01 09:00 JST here)" in made.out


def test_a_renewal_is_the_same_template_with_another_serial_and_end(vendor: Vendor) -> None:
    template = vendor.template()
    assert issue(vendor, template).code == 0
    late = issue(vendor, template, "--until", "2027-12-31", "--serial", "4")
    assert late.code == 3
    assert f"licet: {template}:14: terminates_at is before expires_at" in late.err
    renewed = issue(vendor, template, "--until", "2027-12-31", "--serial", "4", "--grace", "10")
    assert renewed.code == 0, renewed.err
    document = document_in(vendor.folder / "acme-2026-4.json")
    assert (document.serial, show_time(document.terminates_at or document.issued_at)) == (
        4,
        "2028-01-11T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), []),
        (("--until", "2027-01-15", "--serial", "4"), ["13: --until replaces expires_at"]),
        (("--until", "2026-12-31"), []),
        (("--grace", "10"), ["14: --grace replaces terminates_at"]),
        (("--grace", "31"), []),
        (("--until", "2027-12-31", "--grace", "31"), ["13: --until replaces", "14: --grace replaces"]),
    ],
)
def test_an_option_that_replaces_a_time_of_the_template_says_so(
    vendor: Vendor, more: tuple[str, ...], told: list[str]
) -> None:
    template = vendor.template()
    made = issue(vendor, template, *more)
    assert made.code == 0, made.err
    notes = [line for line in made.err.splitlines() if "note: " in line]
    assert len(notes) == len(told)
    expected = zip(notes, told, strict=True)
    assert all(line.startswith(f"licet: note: {template}:{one}") for line, one in expected), notes


@pytest.mark.parametrize(
    ("window", "is_told"),
    [
        ({"starts_at": "2099-02-01T00:00:00Z"}, True),
        ({"expires_at": "2025-12-31T00:00:00Z"}, True),
        ({"starts_at": "2026-02-01T00:00:00Z", "expires_at": "2098-01-01T00:00:00Z"}, False),
        ({}, False),
    ],
)
def test_an_entitlement_that_never_holds_is_a_warning(
    vendor: Vendor, window: dict[str, str], is_told: bool
) -> None:
    entitlement = {"id": "app", "principals": ["billing"], **window}
    ends = {"expires_at": "2099-01-01T00:00:00Z", "terminates_at": "2099-02-01T00:00:00Z"}
    made = issue(vendor, vendor.template(entitlements=[entitlement], **ends))
    assert made.code == 0
    assert ("warning: entitlement app never holds" in made.err) == is_told


def test_what_is_signed_already_is_no_template(vendor: Vendor) -> None:
    assert issue(vendor, vendor.template()).code == 0
    assert vendor.run("request", "--out", "request.json").code == 0
    for file in ("acme-2026-3.json", "request.json"):
        made = issue(vendor, file, "--serial", "4")
        assert made.code == 1
        assert f"licet: {file}: it is signed already, and no template: give the template" in made.err


def test_without_issued_at_it_is_issued_now(vendor: Vendor) -> None:
    before = time.time()
    template = vendor.template(issued_at=None, starts_at=None, expires_at=None, terminates_at=None)
    assert issue(vendor, template).code == 0
    document = document_in(vendor.folder / "acme-2026-3.json")
    assert before - 1 <= document.issued_at.timestamp() <= time.time()
    assert document.starts_at == document.issued_at


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"expires_at": "2099-12-31T12:00:00Z"},
            ["expires_at is in the middle of a day, 2099-12-31 12:00 UTC"],
        ),
        ({"expires_at": "2099-12-31T00:00:00+02:00"}, ["in the middle of a day, 2099-12-30 22:00 UTC"]),
        ({"expires_at": "2099-01-01T00:00:00Z"}, ["a grace of nothing"]),
        (
            {"expires_at": "2099-01-01T00:00:00Z", "terminates_at": "2099-02-01T00:00:01Z"},
            ["terminates_at is in the middle of a day, 2099-02-01 00:00:01 UTC"],
        ),
        ({"expires_at": "2026-01-02T00:00:00Z"}, ["it has expired already"]),
        (
            {"issued_at": "2062-01-01T00:00:00Z", "starts_at": None, "expires_at": None},
            ["issued_at is in the future: 2062-01-01 00:00 UTC"],
        ),
        ({"expires_at": None}, []),
        ({"expires_at": "2099-01-01T00:00:00Z", "terminates_at": "2099-01-02T00:00:00Z"}, []),
    ],
)
def test_a_time_that_may_not_be_meant_is_a_warning(
    vendor: Vendor, changes: dict[str, Any], told: list[str]
) -> None:
    made = issue(vendor, vendor.template(**{"terminates_at": None, **changes}))
    assert made.code == 0
    assert ("warning" in made.err) == bool(told)
    assert [one for one in told if one not in made.err] == []


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (YAML.replace("serial: 7", "serail: 7"), "t:2: unknown key 'serail' (did you mean 'serial'?)"),
        (YAML.replace("serial: 7", "serial: 0"), "t:2: serial: the number 0 is outside 1 to"),
        (YAML.replace("serial: 7", "serial: 07"), "t:2: '07' is not a plain decimal number"),
        (YAML.replace("serial: 7\n", ""), "t:1: lacks 'serial' (add serial)"),
        (YAML + "id: again\n", "t:11: key 'id' was already given at line 1"),
        (YAML.replace("00:00:00Z", "00:00:00"), "t:7: issued_at: time 2026-01-01 00:00:00 has no offset"),
        (YAML.replace("[billing]", "[]"), "t:10: entitlements[0].principals: an empty list"),
        (YAML.replace("app,", "app, seats: {max: 2},"), "t:10: entitlements[0]: 'seats' is not supported"),
        (YAML.replace("production", "evaluation"), "t:6: an evaluation without expires_at"),
        (YAML.replace('"Example Ltd"', "2026"), "t:4: licensee: expected text, found the number 2026"),
        (YAML.replace('"Example Ltd"', '"a\\u202eb"'), "t:4: licensee: "),
        (YAML + "extensions: {made: 2026-01-01}\n", "t:11: extensions"),
        ("", "t:1: expected keys and values, found nothing"),
        ("- a\n", "t:1: expected keys and values, found a list"),
        ('{\n "id": "a",\n "id": "b"}', "t:3: key 'id' was already given at line 2"),
        ('{\n "id": "a",\n "serial": 1.5}', "t:3: serial: expected a whole number"),
        ("a: [", "t:1: not YAML"),
    ],
)
def test_a_mistake_in_a_template_names_file_and_line(vendor: Vendor, written: str, told: str) -> None:
    (vendor.folder / "t").write_text(written)
    vendor.key()
    before = vendor.names()
    made = issue(vendor, "t")
    assert (made.code, made.out) == (3, "")
    assert told in made.err
    assert vendor.names() == before | {"passphrase"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--until", "2026-02-30"), "--until: '2026-02-30' is not valid: write a day, as 2026-12-31"),
        (("--until", "2026-12-31T00:00:00Z"), "--until: '2026-12-31T00:00:00Z' is not valid"),
        (("--until", "9999-12-31"), "--until: '9999-12-31' is not valid: it ends in the year 10000"),
        (("--until", "2025-12-31"), "--until: expires_at is not after starts_at"),
        (("--serial", "0"), "--serial: a whole number from 1 to 9007199254740991 is expected, not 0"),
        (("--grace", "-1"), "--grace: a whole number from 0 to 3650 is expected, not -1"),
        (("--grace", "1"), "--grace: the license is perpetual: give --until too"),
        (("--sign-with", "true"), "--key: give one of --key and --sign-with"),
        (("--public-key", "acme.yaml"), "--public-key: only --sign-with needs it"),
        (("--key", "acme.pem"), "--key: acme.pem is given twice"),
    ],
)
def test_a_mistake_of_the_command_line_names_the_option(
    vendor: Vendor, more: tuple[str, ...], told: str
) -> None:
    made = issue(vendor, vendor.template(expires_at=None, terminates_at=None), *more)
    assert made.code == 2
    assert told in made.err
    assert "acme-2026-3.json" not in vendor.names()


def test_nothing_is_overwritten_and_a_folder_takes_the_default_name(vendor: Vendor) -> None:
    template = vendor.template()
    (vendor.folder / "out").mkdir()
    assert issue(vendor, template, "--out", "out").code == 0
    before = (vendor.folder / "out" / "acme-2026-3.json").read_bytes()
    again = issue(vendor, template, "--out", "out/acme-2026-3.json")
    assert again.code == 1
    assert "out/acme-2026-3.json: it is there already" in again.err
    assert "for a new one give a higher --serial" in again.err
    assert (vendor.folder / "out" / "acme-2026-3.json").read_bytes() == before
    assert os.listdir(vendor.folder / "out") == ["acme-2026-3.json"]


def test_a_folder_that_is_not_there_is_told(vendor: Vendor) -> None:
    made = issue(vendor, vendor.template(), "--out", "nowhere/a.json")
    assert made.code == 1
    assert "nowhere: no such folder: make it, or choose another --out" in made.err


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_private_key_that_others_can_read_signs_nothing(vendor: Vendor, mode: int) -> None:
    vendor.key().chmod(mode)
    made = issue(vendor, vendor.template())
    assert made.code == 1
    assert "acme.pem: other users can read this private key: chmod 600 acme.pem" in made.err
    assert "acme-2026-3.json" not in vendor.names()


def test_a_file_that_is_no_private_key_is_told_as_such(vendor: Vendor) -> None:
    """Its mode does not matter then: the YAML of a key is for everybody."""
    vendor.key()
    made = vendor.run("issue", vendor.template(), "--key", "acme.yaml")
    assert made.code == 1
    assert "licet: acme.yaml: it is not a private key in PEM: name the private key file" in made.err


def test_a_wrong_passphrase_is_told_and_not_shown(vendor: Vendor) -> None:
    vendor.key()
    wrong = vendor.passphrase("drowssap\n", "wrong")
    made = vendor.run("issue", vendor.template(), "--key", "acme.pem", "--passphrase-file", wrong)
    assert made.code == 1
    assert "licet: acme.pem: wrong passphrase" in made.err
    assert "drowssap" not in made.err
    assert PASSPHRASE not in made.err
    assert "acme-2026-3.json" not in vendor.names()


def test_several_keys_make_several_signatures_each_with_its_passphrase(vendor: Vendor) -> None:
    vendor.key("old")
    other = vendor.passphrase("another one\n", "other")
    acme = ("--issuer", "Acme", "--product", "acme-orders")
    assert vendor.run("keygen", *acme, "--out", "new.pem", "--passphrase-file", other).code == 0
    keys = ("--key", "old.pem", "--key", "new.pem")
    files = ("--passphrase-file", vendor.passphrase(), "--passphrase-file", other)
    made = vendor.run("issue", vendor.template(), *keys, *files)
    assert made.code == 0, made.err
    assert len(read_envelope((vendor.folder / "acme-2026-3.json").read_bytes()).signatures) == 2
    three = (*files, "--passphrase-file", other)
    assert vendor.run("issue", vendor.template(), *keys, *three, "--out", "other.json").code == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"issuer": "Bolt"}, "the key is of issuer 'Acme', and the document of 'Bolt'"),
        ({"product": "other"}, "the key is for acme-orders, and the license for 'other'"),
        ({"issued_at": "2025-01-01T00:00:00Z"}, "the key is valid from 2026-01-01 00:00 UTC"),
        (
            {
                "issued_at": "2027-01-01T00:00:00Z",
                "starts_at": None,
                "expires_at": None,
                "terminates_at": None,
            },
            "the key is valid until 2027-01-01 00:00 UTC",
        ),
    ],
)
def test_what_the_key_may_not_sign_is_refused(vendor: Vendor, changes: dict[str, Any], told: str) -> None:
    vendor.key("acme", "--valid-from", "2026-01-01", "--valid-until", "2026-12-31")
    made = issue(vendor, vendor.template(**changes))
    assert made.code == 3
    assert told in made.err
    assert "acme-2026-3.json" not in vendor.names()


def test_a_key_that_may_only_revoke_licenses_nothing(vendor: Vendor) -> None:
    vendor.key("acme", "--may", "revoke")
    made = issue(vendor, vendor.template())
    assert made.code == 3
    assert "the key may not license: its YAML has may: revoke" in made.err


def test_a_yaml_beside_the_key_that_is_another_file_does_not_matter(vendor: Vendor) -> None:
    vendor.key()
    (vendor.folder / "acme.yaml").write_text(YAML)
    assert issue(vendor, vendor.template()).code == 0


def test_one_pipe_has_the_passphrase_of_several_keys(vendor: Vendor) -> None:
    vendor.key("old")
    vendor.key("new")
    reader, writer = os.pipe()
    os.write(writer, f"{PASSPHRASE}\n".encode())
    os.close(writer)
    keys = ("--key", "old.pem", "--key", "new.pem", "--passphrase-file", f"/dev/fd/{reader}")
    made = vendor.run("issue", vendor.template(), *keys)
    os.close(reader)
    assert made.code == 0, made.err


def test_a_document_that_would_be_too_large_is_refused(vendor: Vendor) -> None:
    made = issue(vendor, vendor.template(extensions={"a": "x" * 50_000}))
    assert made.code == 1
    assert "64 KiB are the most" in made.err
    assert "acme-2026-3.json" not in vendor.names()
