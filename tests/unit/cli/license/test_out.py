"""--out of all commands that write a file: a folder has to be there."""

from __future__ import annotations

import pytest

from tests.unit.cli.license.vendor import Vendor

KEYGEN = ("keygen", "--issuer", "Acme", "--product", "acme-orders", "--no-passphrase")
REVOKE = ("revoke", "--issuer", "Acme", "--serial", "1", "--next-update", "2099-03-31", "--key", "acme.pem")


@pytest.mark.parametrize(
    "command",
    [KEYGEN, REVOKE, ("issue", "t.yaml", "--key", "acme.pem"), ("request",)],
    ids=["keygen", "revoke", "issue", "request"],
)
@pytest.mark.parametrize("folder", ["nodir/", "no/dir/", "file/"])
def test_a_folder_that_is_not_there_becomes_no_file(
    vendor: Vendor, command: tuple[str, ...], folder: str
) -> None:
    (vendor.folder / "file").write_text("kept")
    before = vendor.names()
    made = vendor.run(*command, "--out", folder)
    assert (made.code, made.out) == (2, "")
    assert f"--out: {folder}: no such folder: make it, or leave out the / to name a file" in made.err
    assert vendor.names() == before
    assert (vendor.folder / "file").read_text() == "kept"


def test_a_folder_that_is_there_takes_the_default_name_with_and_without_a_slash(vendor: Vendor) -> None:
    for name in ("one", "two"):
        (vendor.folder / name).mkdir()
    assert vendor.run(*KEYGEN, "--out", "one/").code == 0
    assert vendor.run(*KEYGEN, "--out", "two").code == 0
    assert len(list((vendor.folder / "one").iterdir())) == len(list((vendor.folder / "two").iterdir())) == 2
