"""A host with systemd, and the units of these tests: a server, who may use it, who may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.fixtures.lab import ROOT
from tests.fixtures.metrics_text import Samples, parse_metrics
from tests.fixtures.waiting import wait_for

FILES = ROOT / ".vm-files"
PORT = 7321
POLICY = f"""\
version: 1
services:
  orders:
    product: acme
    owner: [{{unit: orders.service}}]
    ports: [{{port: {PORT}, class: internal}}]
principals:
  billing: [{{unit: billing.service}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [billing]}}]}}
"""
HERE = Path(__file__).parent
USER = "--property=User=daemon"


def run(*argv: str | Path, check: bool = True, timeout_s: float = 900) -> str:
    """What it printed. Raises RuntimeError with all it said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def package(version: str) -> Path:
    (found,) = FILES.glob(f"licet_{version}-*.deb")
    return found


def apt(*arguments: str | Path) -> str:
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    return run("apt-get", "-q", "-y", *arguments)


def unit(field: str, name: str = "licet.service") -> str:
    return run("systemctl", "show", "--value", f"--property={field}", name).strip()


def licet(*words: str) -> Any:
    return json.loads(run("licet", *words, "--json"))


def wait_until_ready() -> None:
    wait_for(lambda: unit("ActiveState") == "active", "licet is active")


def serve() -> None:
    run("systemd-run", "--unit=orders", USER, sys.executable, HERE / "server.py", str(PORT))
    wait_for(lambda: f"127.0.0.1:{PORT}" in run("ss", "-Hltn"), "the server listens")


def attempt(name: str) -> str:
    """Of a unit of this name: "ok", or the error's name."""
    (only,) = attempts(name).elements()
    return only


def attempts(name: str, while_there: Path | None = None) -> Counter[str]:
    """One; or one after another while the file is there."""
    command: list[str | Path] = [sys.executable, HERE / "consumer.py", str(PORT)]
    command += [while_there] if while_there else []
    options = ("--wait", "--pipe", "--collect", "--quiet", USER, f"--unit={name}")
    return Counter(run("systemd-run", *options, *command).split())


def metrics() -> Samples:
    with urlopen("http://127.0.0.1:9477/metrics", timeout=60) as answer:
        return parse_metrics(answer.read().decode())


def events() -> list[dict[str, Any]]:
    """All that the journal has of this boot."""
    lines = run("journalctl", "--unit=licet", "--boot", "--output=cat", "--no-pager").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def complaints() -> list[str]:
    """What the agent has said of itself in this boot; not of a policy that speaks of units yet to come."""
    lines = run("journalctl", "--unit=licet", "--boot", "--output=cat", "--no-pager").splitlines()
    own = [line for line in lines if line.startswith(("licet:", "Traceback"))]
    return [line for line in own if "is not running on this host" not in line]


def programs_in_kernel(*of: str | Path) -> set[int]:
    """Ids of all, or of those that bpftool-prog(8) finds by `of`."""
    told = json.loads(run("bpftool", "--json", "prog", "show", *of))
    return {one["id"] for one in (told if isinstance(told, list) else [told])}
