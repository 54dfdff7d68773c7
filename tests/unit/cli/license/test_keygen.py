"""A vendor's keys: what is written, who may read it, and what is refused."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import yaml

from agent.license.keys import key_from, kid_of
from agent.license.signatures import load_private_key, public_bytes
from agent.license.values import Permission
from tests.unit.cli.license.vendor import PASSPHRASE, Vendor

LICET = Path(sys.executable).parent / "licet"
ACME = ("--issuer", "Acme", "--product", "acme-orders")


def test_a_key_is_two_files_of_which_only_one_is_secret(vendor: Vendor) -> None:
    private = vendor.key()
    public = vendor.folder / "acme.yaml"
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in private.read_bytes()
    pinned = key_from(yaml.safe_load(public.read_text()))
    assert pinned.public_key == public_bytes(vendor.open_key(private))
    assert (pinned.issuer, pinned.products, pinned.may) == ("Acme", ("acme-orders",), frozenset(Permission))
    with pytest.raises(ValueError, match="it needs a passphrase"):
        load_private_key(private.read_bytes())


def test_nothing_that_is_shown_or_written_has_the_passphrase(vendor: Vendor) -> None:
    made = vendor.run("keygen", *ACME, "--passphrase-file", vendor.passphrase())
    (vendor.folder / "passphrase").unlink()
    written = b"".join((vendor.folder / name).read_bytes() for name in vendor.names())
    assert PASSPHRASE not in made.out + made.err
    assert PASSPHRASE.encode() not in written
    assert "PRIVATE KEY" not in made.out + made.err


def test_files_are_called_by_issuer_and_kid(vendor: Vendor) -> None:
    issuer = ("--issuer", "../Ä & Söhne\u00a0GmbH")
    made = vendor.run("keygen", *issuer, "--product", "x", "--passphrase-file", vendor.passphrase())
    assert made.code == 0, made.err
    kid = made.out.split()[1]
    assert vendor.names() == {"passphrase", f"s-hne-gmbh-{kid[:8]}.pem", f"s-hne-gmbh-{kid[:8]}.yaml"}


def test_days_are_whole_in_utc_and_permissions_are_as_asked(vendor: Vendor) -> None:
    vendor.key("acme", "--may", "revoke", "--valid-from", "2026-01-01", "--valid-until", "2026-12-31")
    raw = yaml.safe_load((vendor.folder / "acme.yaml").read_text())
    assert (raw["valid_from"], raw["valid_until"]) == ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
    assert raw["may"] == ["revoke"]


@pytest.mark.parametrize("may", [("--may", "license,revoke"), ("--may", "license", "--may", "revoke"), ()])
def test_a_key_may_do_both(vendor: Vendor, may: tuple[str, ...]) -> None:
    vendor.key("acme", *may)
    raw = yaml.safe_load((vendor.folder / "acme.yaml").read_text())
    assert sorted(raw["may"]) == ["license", "revoke"]


@pytest.mark.parametrize("source", ["new", "of"])
def test_a_key_that_is_over_already_is_a_warning(vendor: Vendor, source: str) -> None:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "hsm"], check=True)
    subprocess.run(["openssl", "pkey", "-in", "hsm", "-pubout", "-out", "hsm.pub"], check=True)
    how = ("--of", "hsm.pub") if source == "of" else ("--passphrase-file", vendor.passphrase())
    told = "warning: the key was valid until 2020-01-02 00:00 UTC: nothing new that it signs is accepted"
    assert told in vendor.run("keygen", *ACME, *how, "--valid-until", "2020-01-01", "--out", "1.key").err
    assert "valid until" not in vendor.run("keygen", *ACME, *how, "--valid-until", "2099-01-01").err


@pytest.mark.parametrize("how", [("--no-passphrase",), ("--of", "hsm.pub")])
def test_a_folder_that_is_not_there_is_told_with_a_remedy(vendor: Vendor, how: tuple[str, ...]) -> None:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "hsm"], check=True)
    subprocess.run(["openssl", "pkey", "-in", "hsm", "-pubout", "-out", "hsm.pub"], check=True)
    made = vendor.run("keygen", *ACME, *how, "--out", "keys/acme.pem")
    assert (made.code, made.err) == (1, "licet: keys: no such folder: make it, or choose another --out\n")


@pytest.mark.parametrize("there", ["acme.pem", "acme.yaml"])
def test_nothing_is_overwritten(vendor: Vendor, there: str) -> None:
    (vendor.folder / there).symlink_to("/nonexistent")  # not even what a link leads to
    made = vendor.run("keygen", *ACME, "--out", "acme.pem", "--passphrase-file", vendor.passphrase())
    assert made.code == 1
    assert f"{there}: it is there already" in made.err
    assert vendor.names() == {there, "passphrase"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no passphrase in it"),
        ("\n", "there is no passphrase in it"),
        ("one\ntwo\n", "more than one line"),
        ("x" * 1024, "longer than 1,023 bytes"),
        ("nul\0", "more than one line"),
    ],
)
def test_a_passphrase_file_that_has_no_passphrase_is_told(vendor: Vendor, text: str, told: str) -> None:
    made = vendor.run("keygen", *ACME, "--passphrase-file", vendor.passphrase(text))
    assert made.code == 1
    assert told in made.err
    assert vendor.names() == {"passphrase"}


def test_a_passphrase_file_that_others_can_read_is_a_warning(vendor: Vendor) -> None:
    file = vendor.passphrase()
    os.chmod(file, 0o644)
    made = vendor.run("keygen", *ACME, "--passphrase-file", file)
    assert made.code == 0
    assert f"warning: {file}: other users can read this passphrase" in made.err


def test_a_passphrase_comes_through_a_pipe(vendor: Vendor) -> None:
    reader, writer = os.pipe()
    os.write(writer, f"{PASSPHRASE}\n".encode())
    os.close(writer)
    made = vendor.run("keygen", *ACME, "--out", "acme.pem", "--passphrase-file", f"/dev/fd/{reader}")
    os.close(reader)
    assert made.code == 0, made.err
    assert vendor.open_key(vendor.folder / "acme.pem")


def test_a_key_without_a_passphrase_is_only_made_on_request_and_with_a_warning(vendor: Vendor) -> None:
    made = vendor.run("keygen", *ACME, "--out", "acme.pem", "--no-passphrase")
    assert made.code == 0
    assert "acme.pem has no passphrase: whoever reads it signs as you" in made.err
    load_private_key((vendor.folder / "acme.pem").read_bytes())
    both = vendor.run("keygen", *ACME, "--no-passphrase", "--passphrase-file", vendor.passphrase())
    assert both.code == 2


def test_the_yaml_of_a_key_that_is_elsewhere(vendor: Vendor) -> None:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "hsm"], check=True)
    subprocess.run(["openssl", "pkey", "-in", "hsm", "-pubout", "-out", "hsm.pub"], check=True)
    made = vendor.run("keygen", *ACME, "--of", "hsm.pub", "--out", "hsm.yaml")
    assert made.code == 0, made.err
    pinned = key_from(yaml.safe_load((vendor.folder / "hsm.yaml").read_text()))
    assert pinned.public_key == public_bytes(load_private_key((vendor.folder / "hsm").read_bytes()))
    assert pinned.kid == kid_of(pinned.public_key)
    assert vendor.names() == {"hsm", "hsm.pub", "hsm.yaml"}


@pytest.mark.parametrize("algorithm", ["x25519", "ec -pkeyopt ec_paramgen_curve:P-256"])
def test_the_yaml_of_a_key_of_another_kind_is_not_written(vendor: Vendor, algorithm: str) -> None:
    subprocess.run(["openssl", "genpkey", "-algorithm", *algorithm.split(), "-out", "hsm"], check=True)
    subprocess.run(["openssl", "pkey", "-in", "hsm", "-pubout", "-out", "hsm.pub"], check=True)
    for file in ("hsm.pub", "hsm", "none"):
        made = vendor.run("keygen", *ACME, "--of", file)
        assert made.code == 1
        assert made.err.startswith(f"licet: {file}: ")
    assert vendor.names() == {"hsm", "hsm.pub"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--issuer", "Acme"), "--product: name a product that the key may license"),
        (("--issuer", "", "--product", "x"), "--issuer: issuer: expected text, found an empty text"),
        (("--issuer", "Acme", "--product", "a b"), "--product: products[0]: 'a b' is not a valid name"),
        ((*ACME, "--may", "sign"), "--may: may[0]: 'sign' is not one of license, revoke"),
        ((*ACME, "--may", ""), "--may: may[0]: an empty text is not one of"),
        ((*ACME, "--valid-from", "tomorrow"), "--valid-from: 'tomorrow' is not valid: write a day, as"),
        (
            (*ACME, "--valid-until", "9999-12-31"),
            "--valid-until: '9999-12-31' is not valid: it ends in the year",
        ),
        (
            (*ACME, "--valid-from", "2026-02-01", "--valid-until", "2026-01-01"),
            "--valid-until: valid_until is not after valid_from",
        ),
        ((*ACME, "--out", "acme.yaml"), "--out: the public key gets this name"),
    ],
)
def test_a_mistake_names_the_option(vendor: Vendor, arguments: tuple[str, ...], told: str) -> None:
    made = vendor.run("keygen", *arguments, "--no-passphrase")
    assert (made.code, made.out) == (2, "")
    assert told in made.err
    assert vendor.names() == set()


def in_terminal(folder: Path, *arguments: str, typed: str) -> tuple[int, str]:
    """Exit code and screen of a command whose terminal a person types into."""
    ours, its = os.openpty()

    def in_front() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    child = subprocess.Popen(
        [LICET, "license", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=folder,
        start_new_session=True,
        preexec_fn=in_front,
    )
    os.close(its)
    screen = b""
    lines = typed.splitlines(keepends=True)
    with child:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the terminal has no process any more
                break
            screen += piece
            if piece.rstrip().endswith(b":") and lines:
                os.write(ours, lines.pop(0).encode())
    os.close(ours)
    return child.returncode, screen.decode()


def test_a_passphrase_is_asked_for_twice_and_not_shown(vendor: Vendor) -> None:
    typed = f"{PASSPHRASE}\n" * 2
    code, screen = in_terminal(vendor.folder, "keygen", *ACME, "--out", "acme.pem", typed=typed)
    assert code == 0, screen
    assert PASSPHRASE not in screen
    assert vendor.open_key(vendor.folder / "acme.pem")


def test_two_passphrases_that_differ_make_no_key(vendor: Vendor) -> None:
    code, screen = in_terminal(vendor.folder, "keygen", *ACME, typed="one of them\nthe other\n")
    assert code == 1
    assert "the two passphrases differ" in screen
    assert vendor.names() == set()


def test_without_a_terminal_a_file_is_asked_for(vendor: Vendor) -> None:
    made = subprocess.run(
        [LICET, "license", "keygen", *ACME],
        input="typed into nothing\n",
        capture_output=True,
        text=True,
        cwd=vendor.folder,
        check=False,
        start_new_session=True,
    )
    assert (made.returncode, made.stdout) == (1, "")
    assert made.stderr == "licet: no terminal to ask for the passphrase: use --passphrase-file\n"
    assert vendor.names() == set()
