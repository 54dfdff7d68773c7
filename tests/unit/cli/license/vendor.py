"""A vendor's folder: key files, a template, and the commands run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli.app import main
from agent.license.signatures import PrivateKey, load_private_key
from tests.unit.license.documents import license_raw

PASSPHRASE = "seven dry bytes"
LICET = Path(sys.executable).parent / "licet"
NOBODY = 65534
Run = Callable[..., "Ended"]


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Vendor:
    folder: Path
    licet: Run
    """`licet` with these arguments, in `folder`."""

    @property
    def root(self) -> Path:
        """Where the host's folders are: licenses, keys, state and policy.yaml."""
        return self.folder.parent

    def run(self, *arguments: str) -> Ended:
        """`licet license` with these arguments."""
        return self.licet("license", *arguments)

    def key(self, name: str = "acme", *more: str, issuer: str = "Acme") -> Path:
        """A key made by keygen, with PASSPHRASE."""
        arguments = ("--issuer", issuer, "--product", "acme-orders", "--out", f"{name}.pem", *more)
        made = self.run("keygen", *arguments, "--passphrase-file", self.passphrase())
        assert made.code == 0, made.err
        return self.folder / f"{name}.pem"

    def open_key(self, file: Path) -> PrivateKey:
        return load_private_key(file.read_bytes(), PASSPHRASE.encode())

    def passphrase(self, text: str = f"{PASSPHRASE}\n", name: str = "passphrase") -> str:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return str(path)

    def template(self, name: str = "acme.template.json", **changes: Any) -> str:
        (self.folder / name).write_text(json.dumps(license_raw(**changes), indent=2))
        return name

    def names(self) -> set[str]:
        """Names of the files in the folder."""
        return set(os.listdir(self.folder))


def vendor_in(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vendor:
    folder.mkdir(exist_ok=True)
    config = folder.parent / "config.yaml"
    names = ("licenses", "keys", "state", "run", "pins", "policy_dir")
    places = {name: str(folder.parent / name) for name in names}
    config.write_text(json.dumps({"paths": {**places, "policy": str(folder.parent / "policy.yaml")}}))
    monkeypatch.setenv("LICET_CONFIG", str(config))
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["licet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return Vendor(folder, run)


def as_nobody(vendor: Vendor, *arguments: str) -> Ended:
    """`licet license` with these arguments, as another user than root, in the vendor's folder."""
    root = vendor.folder.parent
    for folder in (vendor.folder, root, *root.parents):
        if folder not in (Path("/tmp"), Path("/")):
            folder.chmod(0o755)
    done = subprocess.run(
        [LICET, "license", *arguments, "--config", root / "config.yaml"],
        cwd=vendor.folder,
        capture_output=True,
        text=True,
        check=False,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    return Ended(done.returncode, done.stdout, done.stderr)
