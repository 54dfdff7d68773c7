"""The packages of this checkout, built once for each content; and of a version that comes after it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures.lab import ROOT

BUILT = ROOT / "build" / "packages"
KEPT = 4
NEXT_VERSION = "0.99.0"
_SOURCES = ("agent", "bpf", "packaging", "pyproject.toml", "CHANGELOG.md")


SUITES = {"debian12": "bookworm", "debian13": "trixie"}
"""Releases that mmdebstrap makes a bare system of here, by their name in packaging/releases.txt."""


def tested_release() -> str:
    """This host's, or the one that `make test-packages RELEASE=debian13` names."""
    fields = platform.freedesktop_os_release()
    return os.environ.get("RELEASE") or fields["ID"] + fields.get("VERSION_ID", "")


def package(release: str) -> Path:
    """Raises RuntimeError with what the build said."""
    return _built(ROOT, release)


def next_package(release: str) -> Path:
    with _copy() as copy:
        _turn_into_the_next(copy)
        return _built(copy, release)


def rpms_for_the_bare_system() -> tuple[Path, Path]:
    """This version and the next, with the Python of a Debian: so that their scripts can be run there."""
    with _copy() as copy:
        releases = copy / "packaging" / "releases.txt"
        (line,) = [one for one in releases.read_text().splitlines() if one.startswith(f"{tested_release()} ")]
        releases.write_text(f"this rpm {line.split()[2]}\n")
        first = _built(copy, "this")
        _turn_into_the_next(copy)
        return first, _built(copy, "this")


def _turn_into_the_next(copy: Path) -> None:
    """Another version, whose programs are another source: an upgrade has to load them and take over."""
    version = copy / "agent" / "__init__.py"
    text = version.read_text()
    before = next(line for line in text.splitlines() if line.startswith("__version__"))
    version.write_text(text.replace(before, f'__version__ = "{NEXT_VERSION}"'))
    with (copy / "bpf" / "lib" / "decide.h").open("a") as source:
        source.write("/* the version after */\n")


@contextmanager
def _copy() -> Iterator[Path]:
    """Of everything that a package is made from."""
    copy = BUILT / ".copy"
    shutil.rmtree(copy, ignore_errors=True)
    for file in _files():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, copy / file)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *_SOURCES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [file for file in listed.stdout.splitlines() if (ROOT / file).exists()]


def _built(root: Path, release: str) -> Path:
    digest = hashlib.sha256()
    for file in _files():
        digest.update(f"{file}\0".encode() + (root / file).read_bytes() + b"\0")
    folder = BUILT / ".tested" / f"{release}-{digest.hexdigest()[:12]}"
    if not folder.exists():
        fresh = BUILT / ".tested" / ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        # the libraries do not change with our sources
        (BUILT / ".libraries").mkdir(exist_ok=True)
        (fresh / ".libraries").symlink_to(BUILT / ".libraries")
        build(root, fresh, release)
        fresh.rename(folder)
        for old in sorted(folder.parent.glob(f"{release}-*"), key=os.path.getmtime)[:-KEPT]:
            shutil.rmtree(old)
    (found,) = [*folder.glob("*.deb"), *folder.glob("*.rpm")]
    return found


def build(root: Path, out: Path, release: str) -> None:
    done = subprocess.run(
        [root / "packaging" / "build.sh", Path(sys.executable).parents[1], out, release],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"packaging/build.sh {release}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    for made in (package(tested_release()), next_package(tested_release())):
        print(made)
