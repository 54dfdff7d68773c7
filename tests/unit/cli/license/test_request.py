"""The operator's side: a host's key, and what a vendor is told of the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.sysdump import collect
from agent.license.envelope import read_envelope
from agent.license.host_key import ensure_host_key, load_host_key
from agent.license.node import host_key_node
from agent.license.request import REQUEST_TYPE, read_request
from agent.license.signatures import load_private_key, public_bytes, verify_one
from agent.license.values import Malformed
from tests.unit.cli.license.vendor import Vendor, as_nobody


@pytest.fixture
def state(vendor: Vendor) -> Path:
    return vendor.folder.parent / "state"


def test_a_request_says_what_the_host_is_and_is_signed_by_it(vendor: Vendor, state: Path) -> None:
    made = vendor.run("request", "--out", "request.json")
    assert made.code == 0, made.err
    envelope = read_envelope((vendor.folder / "request.json").read_bytes())
    request = read_request(envelope.payload)
    assert envelope.payload_type == REQUEST_TYPE
    assert verify_one(request.public_key, envelope.message, envelope.signatures[0].value)
    assert request.public_key == public_bytes(load_private_key((state / "host.key").read_bytes()))
    assert host_key_node(request.public_key) in request.node_ids
    assert request.kernel == os.uname().release
    assert [one for one in request.node_ids if one not in made.out] == []


def test_the_key_is_made_once_and_is_nobody_elses_to_read(vendor: Vendor, state: Path) -> None:
    assert vendor.run("request", "--out", "1.json").code == 0
    key = state / "host.key"
    assert (key.stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o600, 0o700)
    before = key.read_bytes()
    assert vendor.run("request", "--out", "2.json").code == 0
    assert key.read_bytes() == before


def test_the_private_key_is_in_no_output_no_request_and_no_sysdump(vendor: Vendor, state: Path) -> None:
    made = vendor.run("request", "--out", "request.json")
    again = vendor.run("request", "--out", "again.json", "--new-host-key")
    secret = "".join((state / "host.key").read_text().splitlines()[1:-1])[-40:]
    dump = collect(vendor.folder.parent / "config.yaml")
    dumped = b"".join(dump.files.values()).decode()
    told = [made.out, made.err, again.out, again.err, dumped]
    told += [(vendor.folder / name).read_text() for name in ("request.json", "again.json")]
    assert not [text for text in told if secret in text or "PRIVATE KEY" in text]
    assert not [name for name in dump.files if "host.key" in name]


def test_a_request_is_not_written_over_another_file_and_the_key_stays(vendor: Vendor, state: Path) -> None:
    assert vendor.run("request", "--out", "request.json").code == 0
    before = (state / "host.key").read_bytes()
    made = vendor.run("request", "--out", "request.json", "--new-host-key")
    assert made.code == 1
    assert "request.json: it is there already" in made.err
    assert (state / "host.key").read_bytes() == before


def test_a_clone_gets_a_key_of_its_own_and_is_told_what_that_ends(vendor: Vendor, state: Path) -> None:
    vendor.run("request", "--out", "request.json")
    old = host_key_node(ensure_host_key(state))
    licenses = vendor.folder.parent / "licenses"
    licenses.mkdir()
    vendor.key()
    signing = ("--key", "acme.pem", "--passphrase-file", vendor.passphrase(), "--out", str(licenses))
    ours = vendor.template("ours.json", id="ours", node_lock={"any_of": [old]})
    other = vendor.template("other.json", id="other", node_lock={"any_of": ["hk:" + "9c" * 32]})
    for template in (ours, other):
        assert vendor.run("issue", template, *signing).code == 0
    (licenses / "broken.json").write_text("{")
    made = vendor.run("request", "--out", "clone.json", "--new-host-key")
    assert made.code == 0, made.err
    new = host_key_node(ensure_host_key(state))
    assert new != old
    assert new in read_request(read_envelope((vendor.folder / "clone.json").read_bytes()).payload).node_ids
    assert f"{old}, which is gone" in made.out
    assert "ours-3.json (ours serial 3) names the old key: ask its vendor for another" in made.out
    assert "other-3.json" not in made.out
    assert "on a clone both may still be the original's" in made.out
    kept = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert old.removeprefix("hk:").encode() not in kept


@pytest.mark.parametrize("damage", ["host.key", "host.pub"])
def test_a_damaged_key_is_told_with_what_to_do(vendor: Vendor, state: Path, damage: str) -> None:
    ensure_host_key(state)
    (state / damage).write_text("not a key\n")
    made = vendor.run("request")
    assert made.code == 1
    assert made.err.startswith(f"licet: {state / damage}: damaged: ")
    assert vendor.names() == set()
    assert vendor.run("request", "--new-host-key", "--out", "new.json").code == 0


def test_a_public_key_of_another_host_is_told(vendor: Vendor, state: Path, tmp_path: Path) -> None:
    ensure_host_key(state)
    ensure_host_key(tmp_path / "elsewhere")
    (state / "host.pub").write_bytes((tmp_path / "elsewhere" / "host.pub").read_bytes())
    made = vendor.run("request")
    assert made.code == 1
    assert f"{state / 'host.pub'}: it is not of host.key; remove it" in made.err


def test_a_lost_public_key_is_derived_again(state: Path) -> None:
    before = ensure_host_key(state)
    private = (state / "host.key").read_bytes()
    (state / "host.pub").unlink()
    assert ensure_host_key(state) == before
    assert (state / "host.key").read_bytes() == private
    assert load_host_key(state).public_key == before


def test_processes_that_make_the_key_at_the_same_time_have_one_key(state: Path) -> None:
    text = f"""
from pathlib import Path
from agent.license.host_key import load_host_key
input()
print(load_host_key(Path({str(state)!r})).public_key.hex())
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    keys = {one.communicate()[0] for one in started}
    assert keys == {ensure_host_key(state).hex() + "\n"}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_read_the_key_is_told(vendor: Vendor, state: Path) -> None:
    ensure_host_key(state)
    ended = as_nobody(vendor, "request")
    told = f"licet: {state}: only root can read the host's key: run it as root\n"
    assert (ended.code, ended.out, ended.err) == (1, "", told)


def test_a_request_of_a_later_version_is_read_and_one_that_lacks_a_field_is_not(
    vendor: Vendor, state: Path
) -> None:
    vendor.run("request", "--out", "request.json")
    payload = json.loads(read_envelope((vendor.folder / "request.json").read_bytes()).payload)
    assert read_request(json.dumps({**payload, "tpm": {"ek": "x"}}).encode()).licet == payload["licet"]
    for field in payload:
        with pytest.raises(Malformed, match=field):
            read_request(json.dumps({**payload, field: None}).encode())
    with pytest.raises(Malformed, match="no node id is that of public_key"):
        read_request(json.dumps({**payload, "node_ids": ["hk:" + "9c" * 32]}).encode())


def test_what_is_no_request_is_malformed() -> None:
    for raw in ({}, {"hostname": "a"}, []):
        with pytest.raises(Malformed):
            read_request(json.dumps(raw).encode())
