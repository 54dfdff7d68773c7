"""The laboratory of a soak: who serves what, who may use it, and how its programs are started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.fixtures import cgroups, datagrams, namespaces, processes
from tests.fixtures.fresh_copies import SOURCE
from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.namespaces import Namespace

DB, DNS, WEB, SPOOFED, HALF_OPEN, BAIT, LURE, FIRST, OWN, CROWDED = range(7801, 7811)
"""Ports. db and dns are enforced and web is observed: normal use. What is hostile has its own ports, so that
each of these can be counted exactly: spoofed sources at spoofed (enforced) and half_open (observed), programs
and cgroups at bait (enforced) and lure (observed), own networks at own, waves of listeners at crowded."""
LISTEN, HEALTH = 9577, 9578
LICENSED, UNLICENSED, ATTACKER, SERVER, IN_GROUP = 1001, 1002, 1666, 1200, 1667
FIRST_UID = 2000
AT_REMOTE = "10.77.2.1"
"""The host's address on its link to the remote."""
LICENSED_SOURCES = [f"10.77.2.{number}" for number in range(65, 105)]
OTHER_SOURCES = [f"10.77.2.{number}" for number in range(129, 169)]
"""Of the remote host. By UDP an address is one attempt until 30 s go by: each takes its turn every 40 s."""
POLICY = f"""\
version: 1
services:
  db: {{product: acme, owner: [{{uid: {SERVER}}}], ports: [{{port: {DB}, class: internal}}]}}
  dns: {{product: acme, ports: [{{port: {DNS}, protocol: udp, class: internal}}]}}
  web: {{product: acme, ports: [{{port: {WEB}, class: internal}}]}}
  spoofed:
    product: acme
    ports: [{{port: {SPOOFED}, class: internal}}, {{port: {SPOOFED}, protocol: udp, class: internal}}]
  half_open: {{product: acme, ports: [{{port: {HALF_OPEN}, class: internal}}]}}
  bait: {{product: acme, ports: [{{port: {BAIT}, class: internal}}]}}
  lure: {{product: acme, ports: [{{port: {LURE}, class: internal}}]}}
  first: {{product: acme, ports: [{{port: {FIRST}, class: internal}}]}}
  own: {{product: acme, ports: [{{port: {OWN}, class: internal}}]}}
  crowded: {{product: acme, ports: [{{port: {CROWDED}, class: internal}}]}}
principals:
  licensed: [{{uid: {LICENSED}}}, {{cidr: 10.77.2.64/26}}, {{exe: D/opt/licensed}}, {{exe: "D/opt/*/run"}}]
  billing: [{{unit: billing.service}}]
licenses:
  - id: acme
    product: acme
    entitlements: [{{id: use, classes: [internal], principals: [licensed, billing]}}]
enforcement: {{default: enforce, web: observe, half_open: observe, lure: observe}}
"""
SETTINGS = {
    "scope": {"interfaces": ["*"]},
    "listen": f"0.0.0.0:{LISTEN}",
    "health_listen": f"127.0.0.1:{HEALTH}",
}
_START = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


class Program:
    """One of tests/soak/programs, from its start to its last line."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.said: dict[str, Any] = {}
        """Its last line; empty until it has ended, and where it failed."""
        self.wrong: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self.process = process
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for text in self.process.stdout:
            line = json.loads(text)
            if "wrong" in line or "note" in line:
                self.wrong.append(str(line.get("wrong", line.get("note"))))
                if len(self.wrong) <= 5:
                    print(f"  {self.name}: {self.wrong[-1]}", flush=True)
            elif "at_s" in line:
                self.lines.append(line)
            else:
                self.said = line

    def tell_to_end(self) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            return

    def wait(self, timeout_s: float = 30.0) -> str:
        """Why it did not end well; empty: it did."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            processes.end(self.process)
            return f"{self.name} did not end"
        self._reader.join(5)
        log = self.log.read_text() if self.log.exists() else ""
        return f"{self.name} ended with {status}: {log[-600:]}" if status or not self.said else ""

    log = Path("/dev/null")


class World:
    """A laboratory with servers and everybody's addresses."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._code = lab.directory / "code"
        self._logs = lab.directory / "logs"
        self.programs: list[Program] = []

    def prepare(self) -> None:
        shutil.copytree(ROOT / "tests" / "soak" / "programs", self._code / "tests" / "soak" / "programs")
        for package in ("tests", "tests/soak"):
            (self._code / package / "__init__.py").touch()
        self._logs.mkdir()
        lab = self.lab
        for source in (*LICENSED_SOURCES, *OTHER_SOURCES):
            namespaces.ip("-n", lab.remote.name, "address", "add", f"{source}/24", "dev", "eth0")
        for address in ("127.0.0.1", "::1", lab.host.v4, AT_REMOTE):
            # not at all addresses: there is room beside them for listeners of others
            lab.serve(lab.host, address, DB, uid=SERVER)
        for port in (WEB, HALF_OPEN, BAIT, LURE, FIRST):
            lab.serve(lab.host, "0.0.0.0", port, uid=SERVER)
        datagrams.serve(lab, lab.host, "0.0.0.0", DNS, uid=SERVER)
        lab.executable("opt/licensed")
        subprocess.run(
            ["cc", "-O2", "-Wall", "-static", "-s", "-o", lab.directory / "connect", SOURCE], check=True
        )

    @property
    def policy(self) -> str:
        return POLICY.replace("D/opt", f"{self.lab.directory}/opt")

    @property
    def connect_program(self) -> Path:
        return self.lab.directory / "connect"

    def folder_of(self, uid: int, name: str) -> Path:
        """One that the user may write to."""
        made = self.lab.directory / name
        made.mkdir(parents=True)
        os.chown(made, uid, uid)
        return made

    def delegated_cgroup(self, uid: int) -> tuple[str, Path]:
        """Name inside the scope and directory of a cgroup that is the user's."""
        folder = cgroups.directory(self.lab.cgroup("delegated"))
        for path in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control"):
            os.chown(path, uid, uid)
        return "delegated", folder

    def start(self, name: str, module: str, place: Namespace, *arguments: object, **run: Any) -> Program:
        """`name` for people; `run` as of Lab.run()."""
        argv = [processes.PYTHON, "-ISc", _START, self._code, f"tests.soak.programs.{module}"]
        log = self._logs / f"{len(self.programs)}.log"
        with log.open("w") as errors:
            process = self.lab.run(
                place, [*argv, *map(str, arguments)], stdin=subprocess.PIPE, stderr=errors, **run
            )
        program = Program(name, process)
        program.log = log
        self.programs.append(program)
        return program
