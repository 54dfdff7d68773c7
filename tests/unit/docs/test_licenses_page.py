"""docs/licenses.md: its commands, run in the order of the page, print what stands there."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.license.clock import LicenseClock
from agent.license.clock_json import to_json
from agent.license.host_key import ensure_host_key
from agent.license.node import host_key_node
from agent.state_files import State
from agent.system.boottime import boot_id, clocks
from tests.unit.cli.license.vendor import Vendor, vendor_in
from tests.unit.docs.pages import DOCS, fences

LATER = {"2026-12-31": "2098-12-31", "2027-03-31": "2099-03-31", "2027-06-30": "2099-06-30"}
"""Days of the page that must not be past when the test runs."""
ASKS = re.compile("Passphrase|The same again")
OF_THE_HOST = re.compile(r"\b(mi|dm):[0-9a-f]|^no (mi|dm) ")
VARIES = (
    (r" \(\d{4}-\d\d-\d\d \d\d:\d\d \w+ here\)", ""),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)? UTC", "TIME"),
    (r"for a host with .*", "for a host with IDS"),
    (r"^request .*", "request"),
    (r"licet-request-[\w-]+\.json", "licet-request-HOST.json"),
    (r"^(node ids)? +hk:", "hk:"),
    (r"\bhk:[0-9a-f]+…?", "hk:ID"),
    (r"\b[0-9a-f]{8,64}(…|\b)", "KID"),
    (r"^public key   [A-Za-z0-9+/]{43}=$", "public key   BASE64"),
)


def lines(text: str) -> list[str]:
    """The lines of an output, without what differs from run to run and from host to host."""
    kept = []
    for line in text.splitlines():
        for pattern, name in VARIES:
            line = re.sub(pattern, name, line)
        if not ASKS.match(line) and not OF_THE_HOST.search(line):
            kept.append(line)
    return kept


def commands(block: str) -> Iterator[tuple[list[str], str]]:
    """(words, output) of the `licet license` commands in a fence."""
    for each in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = each.partition("\n")
        for day, later in LATER.items():
            command = command.replace(day, later)
        if command.startswith("licet license "):
            yield shlex.split(command)[2:], output


def run(vendor: Vendor, words: list[str], expected: str) -> None:
    signs = words[0] in ("keygen", "issue", "revoke")
    ended = vendor.run(*words, *(("--passphrase-file", vendor.passphrase()) if signs else ()))
    assert (ended.code, ended.err) == (0, ""), words
    found, wanted = lines(ended.out), lines(expected)
    if wanted[-1:] == ["…"]:
        found, wanted = found[: len(wanted) - 1], wanted[:-1]
    assert found == wanted, words


def install(vendor: Vendor, block: str) -> None:
    """What the operator installs in /etc/licet."""
    for files, folder in re.findall(r"^install -m 0644 (.*) /etc/licet/(\w+)/", block, re.MULTILINE):
        (vendor.root / folder).mkdir()
        for file in files.split():
            shutil.copy(vendor.folder / file, vendor.root / folder)


def test_what_the_page_shows_is_what_the_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = vendor_in(tmp_path / "vendor", monkeypatch, capsys)
    node = host_key_node(ensure_host_key(tmp_path / "state"))
    State(tmp_path / "state").keep_time(to_json(LicenseClock.started(boot_id(), *clocks())))
    run_commands = []
    for language, block in fences((DOCS / "licenses.md").read_text()):
        if language == "yaml" and block.startswith("id:"):
            (vendor.folder / "example.template.yaml").write_text(block.replace("hk:db68…", node))
        elif language == "yaml":
            made = yaml.safe_load((vendor.folder / "acme-2026.yaml").read_text())
            assert list(yaml.safe_load(block)) == list(made)
        elif language == "sh":
            install(vendor, block)
        for words, expected in commands(block):
            run(vendor, words, expected)
            run_commands.append(words[0])
    assert run_commands == [
        *("keygen", "keygen", "issue", "revoke", "revoke", "request", "verify", "request")
    ]
