"""Writes the files of `licet license`: never over another, and read back."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import typer

from agent.cli.values import new_file
from agent.errors import LicetError
from agent.system import files

READABLE, SECRET = 0o644, 0o600
ANOTHER = "choose another --out"
ANOTHER_SERIAL = "for a new one give a higher --serial; for the same again choose another --out"


def out_option(text: str) -> Any:
    """The option --out. `text`: its help."""
    return typer.Option("--out", parser=new_file, metavar="PATH", help=text)


def place_of(chosen: Path | None, name: str) -> Path:
    """Where a file goes: to `chosen`, or under its default name into the folder `chosen`, or into the working
    directory."""
    if chosen is None:
        return Path(name)
    return chosen / name if chosen.is_dir() else chosen


def plain_name(text: str) -> str:
    """A file name's part for any text, such as an issuer."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "licet"


def refuse_existing(*paths: Path, remedy: str = ANOTHER) -> None:
    """Raises LicetError if there is anything at one of these paths, or no folder for it."""
    for path in paths:
        if not path.parent.is_dir():
            raise LicetError(f"{path.parent}: no such folder: make it, or choose another --out")
        if path.exists() or path.is_symlink():
            raise _exists(path, remedy)


def write_once(path: Path, content: bytes, mode: int) -> None:
    """Raises LicetError. No file, or part of one, is then left."""
    try:
        files.write_new(path, content, mode)
        read = files.read_bytes(path)
        others = path.stat().st_mode & 0o777 & ~mode
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise LicetError(f"{path}: cannot be written: {error.strerror}") from error
    if read != content:
        _remove(path)
        raise LicetError(f"{path}: what was read back differs from what was written: check the disk")
    if mode == SECRET and others:
        _remove(path)
        raise LicetError(f"{path}: this file system lets others read every file: choose another --out")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _exists(path: Path, remedy: str = ANOTHER) -> LicetError:
    return LicetError(f"{path}: it is there already, and nothing is overwritten: {remedy}")
