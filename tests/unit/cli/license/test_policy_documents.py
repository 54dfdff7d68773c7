"""`policy check`, `policy test` and `explain` without a daemon: documents count as they do for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.licensing.store import Copy, LicenseStore
from agent.license.clock import LicenseClock
from agent.license.clock_json import to_json
from agent.state_files import State
from agent.system.boottime import boot_id, clocks
from tests.unit.cli.license.vendor import Vendor

POLICY = """\
version: 1
services:
  db: {product: acme-orders, ports: [{port: 5432, class: internal}]}
principals:
  billing: [{cidr: 10.2.0.0/16}]
  ops: [{cidr: 10.3.0.0/16}]
licenses:
  - {id: inline, product: acme-orders, entitlements: [{id: all, principals: [ops]}]}
"""
DURING = "2026-06-01T00:00:00Z"


@pytest.fixture
def host(vendor: Vendor) -> Vendor:
    """A host with a policy, a pinned key and no document yet."""
    vendor.key()
    for name in ("keys", "licenses"):
        (vendor.root / name).mkdir()
    shutil.copy(vendor.folder / "acme.yaml", vendor.root / "keys")
    (vendor.root / "policy.yaml").write_text(POLICY)
    return vendor


def issue(vendor: Vendor, name: str = "a.json", folder: str = "licenses", **changes: Any) -> Path:
    until = {"expires_at": "2099-01-01T00:00:00Z", "terminates_at": "2099-02-01T00:00:00Z"}
    template = vendor.template("template.json", **{"node_lock": None, **until, **changes})
    out = vendor.root / folder / name
    out.parent.mkdir(exist_ok=True)
    signing = ("--key", "acme.pem", "--passphrase-file", vendor.passphrase(), "--out", str(out))
    assert vendor.run("issue", template, *signing).code == 0
    return out


def reason(vendor: Vendor, *more: str, consumer: str = "10.2.0.7") -> tuple[int, str]:
    ended = vendor.licet("explain", "--target", "db", "--from", consumer, "--json", *more)
    return ended.code, json.loads(ended.out)["reason"]


def warnings(vendor: Vendor, *more: str) -> list[str]:
    ended = vendor.licet("policy", "check", "--json", *more)
    assert ended.code == 0, ended.out
    return [f"{one['file']}: {one['reason']}" for one in json.loads(ended.out)["warnings"]]


def test_a_document_licenses_whom_the_policy_alone_does_not(host: Vendor) -> None:
    assert reason(host) == (3, "unlicensed_principal")
    issue(host)
    assert reason(host) == (0, "licensed")
    assert reason(host, "--at", "2099-01-15T00:00:00Z") == (0, "expired")
    assert reason(host, "--at", "2099-03-15T00:00:00Z") == (3, "expired")


def test_a_document_that_does_not_hold_is_told_with_its_state(host: Vendor) -> None:
    good = issue(host)
    raw = json.loads(good.read_text())
    raw["payload"] = raw["payload"].replace("eyJpZCI6ImFjbWUtMjAyNi", "eyJpZCI6ImFjbWUtMjAyNy")
    (host.root / "licenses" / "edited.json").write_text(json.dumps(raw))
    (host.root / "licenses" / "broken.json").write_text("{")
    issue(host, "locked.json", id="locked", node_lock={"any_of": ["hk:" + "9c" * 32]})
    told = "\n".join(warnings(host))
    for file, state in (("edited", "bad_signature"), ("broken", "malformed"), ("locked", "node_mismatch")):
        assert f"{host.root}/licenses/{file}.json: {state}: " in told
    assert "a.json" not in told
    assert reason(host) == (0, "licensed")


def test_the_explanation_names_the_file_that_decided(host: Vendor) -> None:
    """A renewal has the id of what it renews."""
    issue(host, "now.json", serial=1)
    issue(host, "renewal.json", serial=2, starts_at="2098-12-01T00:00:00Z", expires_at="2099-01-10T00:00:00Z")
    for moment, file in (("2098-01-01T00:00:00Z", "now.json"), ("2099-01-05T00:00:00Z", "renewal.json")):
        ended = host.licet("explain", "--target", "db", "--from", "10.2.0.7", "--at", moment)
        assert ended.out.splitlines()[0] == (
            f"db/internal: allowed, licensed: license acme-2026 (production), entitlement app ({file})"
        )


LATER = "2098-12-01T00:00:00Z"


def check(vendor: Vendor) -> str:
    """The last line of `policy check`."""
    ended = vendor.licet("policy", "check")
    assert ended.code == 0, ended.out
    return ended.out.splitlines()[-1]


@pytest.mark.parametrize(
    "renewal",
    [
        {"serial": 4},
        {"id": "acme-2027", "serial": 1, "supersedes": ["acme-2026"]},
    ],
)
def test_a_renewal_in_advance_is_no_fault(host: Vendor, renewal: dict[str, Any]) -> None:
    issue(host)
    issue(host, "renewal.json", starts_at=LATER, **renewal)
    assert not any("renewal.json" in one for one in warnings(host))
    assert "2 licenses (1 has not begun)" in check(host)


@pytest.mark.parametrize("other", [None, {"id": "another"}, {"node_lock": {"any_of": ["hk:" + "9c" * 32]}}])
def test_a_license_that_has_not_begun_is_told_where_none_holds_until_then(
    host: Vendor, other: dict[str, Any] | None
) -> None:
    if other:
        issue(host, "other.json", **other)
    issue(host, serial=4, starts_at=LATER, supersedes=None)
    (one,) = (each for each in warnings(host) if "a.json" in each)
    assert one.endswith(
        "not_yet_valid: it begins at 2098-12-01 00:00 UTC, and nothing of it is granted before"
    )


def test_a_license_that_does_not_hold_is_not_counted_as_one(host: Vendor) -> None:
    assert "1 license," in check(host)
    issue(host, "locked.json", node_lock={"any_of": ["hk:" + "9c" * 32]})
    assert "1 license (1 does not hold)," in check(host)
    issue(host, "gone.json", id="gone", expires_at="2026-02-01T00:00:00Z", terminates_at=None)
    assert "1 license (2 do not hold)," in check(host)
    issue(host, "later.json", id="later", starts_at=LATER)
    assert "1 license (1 has not begun, 2 do not hold)," in check(host)
    issue(host, "grace.json", id="grace", expires_at="2026-02-01T00:00:00Z")
    assert "2 licenses (1 has not begun, 2 do not hold)," in check(host)


def test_it_is_said_by_which_clock_documents_are_judged(host: Vendor) -> None:
    commands = (("policy", "check"), ("policy", "show"), ("explain", "--target", "db", "--from", "10.3.0.7"))
    told = [host.licet(*command).err for command in commands]
    assert told == ["", "", ""]
    issue(host)

    def clocks_told(*more: str) -> set[str]:
        lines = [line for command in commands for line in host.licet(*command, *more).err.splitlines()]
        assert len(lines) == len(commands)
        assert all(line.startswith("licet: note: license documents are judged at 20") for line in lines)
        return {line.partition(" UTC, by ")[2] for line in lines}

    assert clocks_told() == {"the wall clock"}
    State(host.root / "state").keep_time(to_json(LicenseClock.started(boot_id(), *clocks())))
    assert clocks_told() == {"license time"}
    assert host.licet(*commands[2], "--at", LATER).err == ""
    assert host.licet(*commands[0], "--elsewhere", "--licenses", str(host.root / "licenses")).err.endswith(
        " UTC, by the wall clock\n"
    )


@pytest.mark.parametrize("gone", ["licenses", "keys"])
def test_a_folder_that_is_gone_is_told_once(host: Vendor, gone: str) -> None:
    file = issue(host)
    kid = json.loads(file.read_text())["signatures"][0]["keyid"]
    store = LicenseStore(host.root / "state" / "licenses")
    store.put_copy(Copy("a.json", file.read_bytes(), frozenset({kid})))
    store.put_keys({"acme.yaml": (host.root / "keys" / "acme.yaml").read_text()})
    shutil.rmtree(host.root / gone)
    for command in (("policy", "check"), ("explain", "--target", "db", "--from", "10.2.0.7")):
        ended = host.licet(*command)
        assert ended.code == 0, ended.out
        assert (ended.out + ended.err).count("the folder is gone") == 1


def test_what_only_a_signed_license_would_grant_names_the_setting(host: Vendor) -> None:
    config = host.root / "config.yaml"
    config.write_text(json.dumps({**json.loads(config.read_text()), "require_signed": True}))
    issue(host)
    ended = host.licet("explain", "--target", "db", "--from", "10.3.0.7")
    named = "license inline (not signed, and require_signed is set), entitlement all"
    assert f"denied, bad_signature: {named}" in ended.out.splitlines()[0]
    assert (
        "inline/all (not signed, and require_signed is set), bad_signature"
        in host.licet("policy", "show").out
    )


def test_only_a_document_that_does_not_hold_is_the_reason(host: Vendor) -> None:
    issue(host, node_lock={"any_of": ["hk:" + "9c" * 32]})
    assert reason(host) == (3, "node_mismatch")


def test_documents_count_for_the_hosts_policy_and_for_another_if_asked(host: Vendor) -> None:
    issue(host)
    other = host.root / "other.yaml"
    other.write_text(POLICY)
    licenses = ("--licenses", str(host.root / "licenses"))
    assert reason(host, "--policy", str(other)) == (3, "unlicensed_principal")
    assert reason(host, "--policy", str(other), *licenses) == (0, "licensed")
    assert any("billing" in one for one in warnings(host, str(other)))
    assert not any("billing" in one for one in warnings(host, str(other), *licenses))
    (host.root / "empty").mkdir()
    assert reason(host, "--keys", str(host.root / "empty")) == (3, "unknown_key")


def test_a_document_for_another_host_is_checked_there(host: Vendor) -> None:
    lock = {"any_of": ["hk:" + "9c" * 32]}
    issue(host, folder="theirs", node_lock=lock)
    theirs = ("--licenses", str(host.root / "theirs"))
    assert any("node_mismatch" in one for one in warnings(host, *theirs))
    assert not any("node_mismatch" in one for one in warnings(host, *theirs, "--elsewhere"))


def test_where_only_signed_licenses_grant_an_inline_one_does_not(host: Vendor) -> None:
    issue(host)
    config = host.root / "config.yaml"
    raw = json.loads(config.read_text())
    assert reason(host, consumer="10.3.0.7") == (0, "licensed")
    config.write_text(json.dumps({**raw, "require_signed": True}))
    assert reason(host, consumer="10.3.0.7") == (3, "bad_signature")
    assert reason(host) == (0, "licensed")
    assert any("not signed" in one for one in warnings(host))


def test_the_copy_that_is_in_force_counts_while_its_file_is_damaged(host: Vendor) -> None:
    file = issue(host)
    content = file.read_bytes()
    kid = json.loads(content)["signatures"][0]["keyid"]
    LicenseStore(host.root / "state" / "licenses").put_copy(Copy("a.json", content, frozenset({kid})))
    file.write_bytes(content[:-40])
    assert reason(host) == (0, "licensed")
    assert any("a.json: malformed" in one for one in warnings(host))
    file.unlink()
    assert reason(host) == (3, "unlicensed_principal")


def test_expected_decisions_know_documents(host: Vendor) -> None:
    cases = host.folder / "cases.yaml"
    cases.write_text("cases: [{target: db, consumer: {address: 10.2.0.7}, expect: allowed}]\n")
    assert "0 of 1 case holds" in host.licet("policy", "test", str(cases)).out
    issue(host)
    assert host.licet("policy", "test", str(cases)).code == 0


@pytest.mark.parametrize("option", ["--licenses", "--keys"])
def test_a_folder_that_is_not_there_is_a_mistake(host: Vendor, option: str) -> None:
    for command in (("policy", "check"), ("explain", "--target", "db", "--from", "10.2.0.7")):
        ended = host.licet(*command, option, "nowhere")
        assert ended.code == 2
        assert f"{option}: nowhere: no such folder" in ended.err


def test_looking_changes_nothing(host: Vendor) -> None:
    issue(host)
    before = {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()}
    warnings(host)
    reason(host)
    host.run("verify", str(host.root / "licenses" / "a.json"))
    assert before == {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()}
