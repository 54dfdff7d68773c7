"""What a host says of files: shown as a whole, verified or not, and judged as the daemon would."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.cli.license.remedies import remedy_of
from agent.daemon.licensing.store import LicenseStore
from agent.license.clock import LicenseClock
from agent.license.clock_json import to_json
from agent.license.host_key import ensure_host_key
from agent.license.keys import kid_of
from agent.license.node import host_key_node
from agent.license.report import State
from agent.license.serials import Seen
from agent.state_files import State as Stored
from agent.system.boottime import boot_id, clocks
from tests.unit.cli.license.vendor import Vendor, as_nobody

BEFORE, DURING, IN_GRACE, AFTER = "2025-06-01", "2026-06-01", "2027-01-15", "2027-03-01"


@pytest.fixture
def root(vendor: Vendor) -> Path:
    """Where the host's folders are; the vendor's key is pinned."""
    vendor.key()
    keys = vendor.folder.parent / "keys"
    keys.mkdir()
    shutil.copy(vendor.folder / "acme.yaml", keys)
    return vendor.folder.parent


def issue(vendor: Vendor, name: str = "a.json", key: str = "acme.pem", **changes: Any) -> str:
    changes = {"node_lock": None, **changes}
    template = vendor.template("template.json", **changes)
    signing = ("--key", key, "--passphrase-file", vendor.passphrase())
    made = vendor.run("issue", template, *signing, "--out", name)
    assert made.code == 0, made.err
    return name


def verdict(vendor: Vendor, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    ended = vendor.run("verify", *arguments, "--json")
    return ended.code, json.loads(ended.out)["files"]


def edited(vendor: Vendor, file: str) -> str:
    """The same file with one character of the payload changed, so that it says something else."""
    raw = json.loads((vendor.folder / file).read_text())
    raw["payload"] = raw["payload"].replace("eyJpZCI6ImFjbWUtMjAyNi", "eyJpZCI6ImFjbWUtMjAyNy")
    (vendor.folder / "edited.json").write_text(json.dumps(raw))
    return "edited.json"


@pytest.mark.parametrize(
    ("at", "state", "code"),
    [(BEFORE, "not_yet_valid", 3), (DURING, "valid", 0), (IN_GRACE, "grace", 0), (AFTER, "expired", 3)],
)
def test_the_state_at_a_time(vendor: Vendor, root: Path, at: str, state: str, code: int) -> None:
    ended, (one,) = verdict(vendor, issue(vendor), "--at", at)
    assert (ended, one["state"], one["ok"], one["verified"]) == (code, state, code == 0, True)


def test_an_edited_document_is_no_document_of_the_vendor(vendor: Vendor, root: Path) -> None:
    code, (one,) = verdict(vendor, edited(vendor, issue(vendor)), "--at", DURING)
    assert (code, one["state"], one["verified"], one["key"]) == (3, "bad_signature", False, "")


def test_a_key_that_is_not_pinned_is_unknown(vendor: Vendor, root: Path) -> None:
    vendor.key("stranger")
    code, (one,) = verdict(vendor, issue(vendor, key="stranger.pem"), "--at", DURING)
    assert (code, one["state"]) == (3, "unknown_key")
    (root / "empty").mkdir()
    code, (one,) = verdict(vendor, issue(vendor, "b.json"), "--at", DURING, "--keys", str(root / "empty"))
    assert (code, one["state"]) == (3, "unknown_key")


def test_a_document_for_another_host_does_not_hold_here(vendor: Vendor, root: Path) -> None:
    here = host_key_node(ensure_host_key(root / "state"))
    locks = [{"any_of": ["hk:" + "9c" * 32]}, {"any_of": ["hk:" + "9c" * 32, here]}]
    files = [issue(vendor, f"{at}.json", id=f"l{at}", node_lock=lock) for at, lock in enumerate(locks)]
    code, found = verdict(vendor, *files, "--at", DURING)
    assert (code, [one["state"] for one in found]) == (3, ["node_mismatch", "valid"])


def test_what_the_daemon_remembers_counts_and_is_not_touched(vendor: Vendor, root: Path) -> None:
    file = issue(vendor)
    kid = kid_of(bytes(32))
    store = LicenseStore(root / "state" / "licenses")
    code, (one,) = verdict(vendor, file, "--at", DURING)
    store.serials.highest["Acme", "acme-2026"] = {one["key"]: Seen(4, kid)}
    store.put_serials()
    before = {path: path.read_bytes() for path in (root / "state").rglob("*") if path.is_file()}
    code, (one,) = verdict(vendor, file, "--at", DURING)
    assert (code, one["state"], one["why"]) == (3, "superseded", "serial 4 has been in force")
    assert before == {path: path.read_bytes() for path in (root / "state").rglob("*") if path.is_file()}


def test_a_revocation_list_beside_it_counts(vendor: Vendor, root: Path) -> None:
    file = issue(vendor)
    base = ("--issuer", "Acme", "--serial", "1", "--next-update", "2099-01-01", "--license", "acme-2026:3")
    signing = ("--key", "acme.pem", "--passphrase-file", vendor.passphrase())
    assert vendor.run("revoke", *base, *signing, "--out", "r.json").code == 0
    code, found = verdict(vendor, file, "r.json", "--at", DURING)
    assert (code, [one["state"] for one in found]) == (3, ["revoked", "valid"])


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_revocation_list_is_shown_with_all_that_it_revokes(
    vendor: Vendor, root: Path, command: str
) -> None:
    base = ("--issuer", "Acme", "--serial", "1", "--next-update", "2099-01-01")
    revoked = ("--license", "acme-2026:3,4", "--license", "old", "--key-id", "ab" * 32, "--key-id", "cd" * 32)
    signing = ("--key", "acme.pem", "--passphrase-file", vendor.passphrase())
    assert vendor.run("revoke", *base, *revoked, *signing, "--out", "r.json").code == 0
    ended = vendor.run(command, "r.json")
    assert ended.code == 0
    assert "next update  2099-01-02 00:00 UTC\n" in ended.out
    assert "license      acme-2026, serials 3, 4\n             old, all serials\n" in ended.out
    assert f"key          {'ab' * 32}\n             {'cd' * 32}\n" in ended.out


def test_a_revocation_list_that_is_late_is_told(vendor: Vendor, root: Path) -> None:
    base = ("--issuer", "Acme", "--serial", "1", "--next-update", "2099-01-01")
    signing = ("--key", "acme.pem", "--passphrase-file", vendor.passphrase())
    assert vendor.run("revoke", *base, *signing, "--out", "r.json").code == 0
    ended = vendor.run("verify", "r.json", "--at", "2099-02-01")
    assert ended.code == 0
    assert "next update  2099-01-02 00:00 UTC, overdue: ask for the next list\n" in ended.out


def test_a_request_is_verified_with_all_node_ids(vendor: Vendor, root: Path) -> None:
    assert vendor.run("request", "--out", "r.json").code == 0
    shown, verified = vendor.run("show", "r.json").out, vendor.run("verify", "r.json").out
    content = shown[shown.index("request ") :]
    assert "hk:" in content
    assert content in verified


def test_a_verdict_says_by_which_clock(vendor: Vendor, root: Path) -> None:
    file = issue(vendor)

    def judged_by(*more: str) -> tuple[str, str]:
        (line,) = (one for one in vendor.run("verify", file, *more).out.splitlines() if "judged " in one)
        found = json.loads(vendor.run("verify", file, *more, "--json").out)["judged_by"]
        return line.partition(" UTC")[2].partition(",")[0], found

    assert judged_by() == (" by the wall clock", "the wall clock")
    assert judged_by("--at", DURING) == ("", "--at")
    Stored(root / "state").keep_time(to_json(LicenseClock.started(boot_id(), *clocks())))
    assert judged_by() == (" by license time", "license time")
    (root / "state" / "clock.json").write_text("{")
    assert judged_by() == (" by the wall clock", "the wall clock")


def test_a_folder_of_keys_that_is_gone_is_told_once(vendor: Vendor, root: Path) -> None:
    file = issue(vendor)
    shutil.rmtree(root / "keys")
    (root / "keys").symlink_to("nowhere")
    told = vendor.run("verify", file, "--at", DURING).err
    assert told.count(f"{root}/keys") == 1, told


def test_the_verdict_as_text(vendor: Vendor, root: Path) -> None:
    ended = vendor.run("verify", issue(vendor), "--at", DURING)
    assert ended.code == 0
    assert "state        valid\n" in ended.out
    assert "license      acme-2026 serial 3 (Acme, production)\n" in ended.out
    assert "terminates   2027-02-01 00:00 UTC, after 31 days of grace\n" in ended.out
    assert "judged       2026-06-01 00:00 UTC, for a host with " in ended.out


def test_a_verdict_that_is_no_has_a_remedy_and_the_whole_kid(vendor: Vendor, root: Path) -> None:
    file = issue(vendor)
    kid = json.loads((vendor.folder / file).read_text())["signatures"][0]["keyid"]
    for pinned in (root / "keys").iterdir():
        pinned.unlink()
    ended = vendor.run("verify", file, "--at", DURING)
    assert ended.code == 3
    assert f"why          key {kid[:12]} is not pinned\n" in ended.out
    assert "remedy       ask its vendor, and pin a key only after you compared its kid\n" in ended.out
    assert f"key id       {kid}\n" in ended.out


def test_only_a_state_that_needs_none_has_no_remedy() -> None:
    without = {state for state in State if not remedy_of(state)}
    assert without == {State.VALID, State.GRACE, State.MALFORMED, State.UNVERIFIED}


def test_everything_in_a_document_is_shown(vendor: Vendor, root: Path) -> None:
    document = {
        "supersedes": ["acme-2025"],
        "hosts": 12,
        "clock": "strict",
        "node_lock": {"any_of": ["mi:" + "5f" * 32, "hk:" + "9c" * 32], "at_least": 2},
        "entitlements": [
            {"id": "one", "principals": ["p1", "p2"], "services": ["s1"], "classes": ["admin", "internal"]},
            {"id": "two", "principals": ["p3"], "expires_at": "2026-05-01T00:00:00Z"},
        ],
        "extensions": {"order": "4711", "deep": [{"x": None}]},
    }
    ended = vendor.run("show", issue(vendor, **document))
    assert ended.code == 0, ended.err
    expected = [
        "acme-2026 serial 3 (Acme, production)",
        "Example Ltd",
        "acme-orders",
        "acme-2025",
        "2027-02-01 00:00 UTC, after 31 days of grace",
        "60, 30, 14, 7, 1 days before",
        "12, reported and not enforced",
        "strict",
        "month from 2026-01-01",
        "2 of 2 node ids",
        "mi:" + "5f" * 32,
        "one: p1, p2, admin, internal ports of s1",
        "two: p3, every class of every service, until 2026-05-01 00:00 UTC",
        '{"order": "4711", "deep": [{"x": null}]}',
    ]
    assert [one for one in expected if one not in ended.out] == []


def test_what_nobody_signed_is_shown_and_marked(vendor: Vendor, root: Path) -> None:
    good = issue(vendor)
    ended = vendor.run("show", edited(vendor, good))
    assert ended.code == 0
    assert "NOT VERIFIED, anybody may have written what follows" in ended.out
    assert "acme-2027 serial 3 (Acme, production)" in ended.out
    assert "NOT VERIFIED" not in vendor.run("show", good).out
    (one,) = json.loads(vendor.run("show", "edited.json", "--json").out)
    assert (one["verified"], one["payload"]["id"]) == (False, "acme-2027")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"payloadType": "x"}', b"{}" * 40_000])
def test_a_file_that_is_no_document_is_malformed(vendor: Vendor, root: Path, content: bytes) -> None:
    (vendor.folder / "x.json").write_bytes(content)
    code, (one,) = verdict(vendor, "x.json")
    assert (code, one["state"], one["type"]) == (3, "malformed", None)
    shown = vendor.run("show", "x.json")
    assert shown.code == 3
    assert "NOT VERIFIED" in shown.out


def test_text_that_steers_a_terminal_is_escaped(vendor: Vendor, root: Path) -> None:
    raw = json.loads((vendor.folder / issue(vendor)).read_text())
    raw["payload"] = "e30="
    raw["signatures"][0]["keyid"] = "\x1b[2Jgone\nstate  valid"
    (vendor.folder / "\x1b[31m.json").write_text(json.dumps(raw))
    for command in ("show", "verify"):
        ended = vendor.run(command, "\x1b[31m.json")
        assert ended.code == 3
        assert "\x1b" not in ended.out + ended.err
        assert "\nstate  valid" not in ended.out


def test_a_request_is_verified_by_the_key_in_it(vendor: Vendor, root: Path) -> None:
    assert vendor.run("request", "--out", "r.json").code == 0
    code, (one,) = verdict(vendor, "r.json")
    assert (code, one["state"], one["type"]) == (0, "valid", "application/vnd.licet.request.v1+json")
    raw = json.loads((vendor.folder / "r.json").read_text())
    raw["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    (vendor.folder / "other.json").write_text(json.dumps(raw))
    code, (one,) = verdict(vendor, "other.json")
    assert (code, one["state"], one["verified"]) == (3, "bad_signature", False)
    shown = vendor.run("show", "r.json")
    assert "by the host's key, which is in it" in shown.out


def test_a_document_comes_through_a_pipe_and_files_may_share_a_name(vendor: Vendor, root: Path) -> None:
    file = issue(vendor)
    (vendor.folder / "sub").mkdir()
    issue(vendor, "sub/a.json", id="b")
    reader, writer = os.pipe()
    os.write(writer, (vendor.folder / file).read_bytes())
    os.close(writer)
    code, found = verdict(vendor, f"/dev/fd/{reader}", "sub/a.json", "--at", DURING)
    os.close(reader)
    assert (code, [one["state"] for one in found]) == (0, ["valid", "valid"])


def test_a_file_that_is_not_there_and_a_folder_of_keys_that_is_not_there(vendor: Vendor, root: Path) -> None:
    for command in ("show", "verify"):
        ended = vendor.run(command, "none.json")
        assert ended.code == 1
        assert "none.json: cannot be read: No such file or directory" in ended.err
        ended = vendor.run(command, issue(vendor, f"{command}.json"), "--keys", "nowhere")
        assert ended.code == 2
        assert "--keys: nowhere: no such folder" in ended.err


def test_a_key_file_with_a_mistake_is_told(vendor: Vendor, root: Path) -> None:
    (root / "keys" / "bad.yaml").write_text("kid: x\n")
    ended = vendor.run("verify", issue(vendor), "--at", DURING)
    assert ended.code == 0
    assert f"licet: warning: {root}/keys/bad.yaml:1: " in ended.err


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_told_what_is_not_looked_at(vendor: Vendor, root: Path) -> None:
    file = issue(vendor)
    ensure_host_key(root / "state")
    ended = as_nobody(vendor, "verify", file, "--at", DURING)
    assert ended.code == 0, ended.err
    assert "licet: note: only root can read what this host knows" in ended.err
