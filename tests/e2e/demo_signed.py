"""The second story of `make demo`: a signed license, and files and clocks that change nothing about it."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.model import show_time
from tests.e2e.stage import Stage
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET
from tests.fixtures.shifted_clock import ShiftedClock
from tests.fixtures.waiting import SLOWER, wait_for

PORT = 5440
POLICY = f"""\
version: 1
services:
  orders: {{product: acme-orders, ports: [{{port: {PORT}, class: internal}}]}}
principals:
  billing: [{{unit: billing.service}}]
enforcement: {{default: enforce}}
"""
LICENSE = """\
id: {id}
serial: {serial}
issuer: Acme
licensee: Example Ltd
product: acme-orders
kind: production
issued_at: {issued}
expires_at: {expires}
terminates_at: {ends}
entitlements:
  - {{id: app, classes: [internal], principals: [billing]}}
"""
YEAR_S = 365 * 86400
SOON_S = round(15 * SLOWER)


class SignedDemo:
    def __init__(self, lab: Lab, stage: Stage) -> None:
        self._lab = lab
        self._stage = stage
        self._billing = lab.executable("billing/bin/worker")
        self._clock = ShiftedClock(lab.directory)
        self._vendor = lab.directory / "vendor"
        self._vendor.mkdir()
        self._agent = lab.agent(POLICY, start=False)

    def play(self) -> None:
        lab = self._lab
        lab.serve(lab.host, "127.0.0.1", PORT, cgroup="orders.service")
        self._clock.start(self._agent)
        self._signed()
        self._refused_files()
        self._renewed()
        self._clock_set_back()

    def _signed(self) -> None:
        stage, files = self._stage, self._agent.files
        stage.step("A vendor makes a key and signs a license; the operator pins the key and copies the file")
        key = self._keygen("acme")
        files.keys.mkdir()
        files.licenses.mkdir()
        (files.keys / "acme.yaml").write_bytes(key.with_suffix(".yaml").read_bytes())
        stage.check("billing, before there is a license", self._attempt(), {"EPERM": 1})
        issued = self._issue(key, "acme-2026", 2, expires_s=90 * 86400, ends_s=120 * 86400)
        self._put("acme-2026.json", issued)
        self._until({"acme-2026.json": "valid"})
        stage.check("billing, by the signed license", self._attempt(), {})
        self._show()

    def _refused_files(self) -> None:
        stage = self._stage
        stage.step("A forged, an edited and an older document: each is refused, and the good one goes on")
        stranger = self._keygen("stranger")
        good = (self._agent.files.licenses / "acme-2026.json").read_bytes()
        self._put("forged.json", self._issue(stranger, "acme-forged", 1, expires_s=YEAR_S, ends_s=YEAR_S))
        self._put("edited.json", edited(good, licensee="Somebody Else"))
        older = self._issue(self._vendor / "acme.pem", "acme-2026", 1, expires_s=YEAR_S, ends_s=YEAR_S)
        self._put("older.json", older)
        self._until(
            {
                "acme-2026.json": "valid",
                "edited.json": "bad_signature",
                "forged.json": "unknown_key",
                "older.json": "superseded",
            }
        )
        self._show()
        stage.check("billing, by the good one", self._attempt(), {})
        for name in ("forged.json", "edited.json", "older.json"):
            (self._agent.files.licenses / name).unlink()
        self._put("acme-2026.json", good[: len(good) // 2])
        self._until({"acme-2026.json": "malformed"}, of_copies={"acme-2026.json": "valid"})
        stage.check("billing, while the good one is half copied", self._attempt(), {})
        self._put("acme-2026.json", good)
        self._until({"acme-2026.json": "valid"})

    def _renewed(self) -> None:
        stage = self._stage
        stage.step("A license in grace, and its renewal beside it: nobody is in grace any more")
        key = self._vendor / "acme.pem"
        self._put("acme-2026.json", self._issue(key, "acme-2026", 3, expires_s=-60, ends_s=86400))
        self._until({"acme-2026.json": "grace"})
        before = self._counted("grace")
        self._attempt()
        stage.check("in grace, before the renewal", self._counted("grace") - before, 1)
        self._put("renewal.json", self._issue(key, "acme-2027", 1, expires_s=YEAR_S, ends_s=YEAR_S))
        self._until({"acme-2026.json": "grace", "renewal.json": "valid"})
        before = self._counted("grace"), self._counted("allowed")
        stage.check("billing, with the renewal", self._attempt(), {})
        after = self._counted("grace"), self._counted("allowed")
        stage.check("in grace, and allowed", (after[0] - before[0], after[1] - before[1]), (0, 1))
        (self._agent.files.licenses / "renewal.json").unlink()
        self._until({"acme-2026.json": "grace"})

    def _clock_set_back(self) -> None:
        stage = self._stage
        stage.step(f"A license ends in {SOON_S} s. The daemon is stopped, and its clock is set back a year")
        key = self._vendor / "acme.pem"
        ends = time.monotonic() + SOON_S
        self._put("acme-2026.json", self._issue(key, "acme-2026", 4, expires_s=SOON_S, ends_s=SOON_S))
        self._until({"acme-2026.json": "valid"})
        stage.check("billing, while it holds", self._attempt(), {})
        self._agent.terminate()
        self._clock.set(-YEAR_S)
        stage.check("the license still held when the daemon ended", time.monotonic() < ends, True)
        wait_for(lambda: time.monotonic() > ends + 1, "the license has ended", timeout_s=2 * SOON_S)
        stage.check("billing, refused by the kernel", self._attempt(), {"EPERM": 1})
        self._clock.start(self._agent)
        stage.check("billing, with a daemon whose clock is a year behind", self._attempt(), {"EPERM": 1})
        self._until({"acme-2026.json": "expired"})
        self._show()
        (self._agent.files.licenses / "acme-2026.json").unlink()

    def _keygen(self, name: str) -> Path:
        private = self._vendor / f"{name}.pem"
        asked = ("--issuer", "Acme", "--product", "acme-orders", "--no-passphrase", "--out", private)
        self._run("license", "keygen", *asked)
        return private

    def _issue(self, key: Path, name: str, serial: int, *, expires_s: float, ends_s: float) -> bytes:
        """Times are seconds from now."""
        template, out = self._vendor / "template.yaml", self._vendor / "issued.json"
        out.unlink(missing_ok=True)
        fields = {"issued": -3600.0, "expires": expires_s, "ends": ends_s}
        now = datetime.now(UTC).replace(microsecond=0)
        times = {field: show_time(now + timedelta(seconds=after)) for field, after in fields.items()}
        template.write_text(LICENSE.format(id=name, serial=serial, **times))
        self._run("license", "issue", template, "--key", key, "--out", out)
        return out.read_bytes()

    def _run(self, *arguments: str | Path) -> None:
        shown = [argument.name if isinstance(argument, Path) else argument for argument in arguments]
        self._stage.say(f"   $ licet {' '.join(shown)}")
        done = subprocess.run([LICET, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"licet {' '.join(shown)}: {done.stderr}")

    def _put(self, name: str, content: bytes) -> None:
        path = self._agent.files.licenses / name
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)

    def _until(self, states: dict[str, str], of_copies: dict[str, str] | None = None) -> None:
        """Wait for the states of all files, and check them."""

        def found() -> tuple[dict[str, str], dict[str, str]]:
            listed = json.loads(self._agent.licet("licenses", "--json").stdout)["licenses"]
            of = [{}, {}]  # type: list[dict[str, str]]
            for one in listed:
                of[one["is_copy"]][one["file"]] = one["state"]
            return of[0], of[1]

        wanted = states, of_copies or {}
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: found() == wanted, "the states of the documents")
        self._stage.check("documents, and copies in force" if of_copies else "documents", found(), wanted)

    def _show(self) -> None:
        for line in self._agent.licet("licenses").stdout.splitlines():
            self._stage.say(f"   | {line}")

    def _attempt(self) -> dict[str, int]:
        host = self._lab.host
        return self._lab.load(host, "127.0.0.1", PORT, program=self._billing, cgroup="billing.service")[
            "errors"
        ]

    def _counted(self, decision: str) -> float:
        return self._agent.total("licet_connections_total", service="orders", decision=decision)


def edited(document: bytes, **changes: str) -> bytes:
    """The document with another payload and the same signatures."""
    envelope = json.loads(document)
    payload = json.loads(base64.b64decode(envelope["payload"])) | changes
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(envelope).encode()
