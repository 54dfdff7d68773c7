"""Passphrases of private keys: from a prompt or a file, never an argument or an environment variable."""

from __future__ import annotations

import getpass
import os
import stat
from pathlib import Path

import typer

from agent import given
from agent.errors import LicetError
from agent.wording import counted

MOST_BYTES = 1023
"""As many as OpenSSL takes."""


def new() -> bytes:
    """Ask twice at the terminal. Raises LicetError if there is none, or if the answers differ."""
    first = _asked("Passphrase for the new key: ")
    if first != _asked("The same again: "):
        raise LicetError("the two passphrases differ: nothing was written; try again")
    return first


def of_key(file: Path) -> bytes:
    """Ask once at the terminal. Raises LicetError if there is none."""
    return _asked(f"Passphrase of {file}: ")


def from_file(path: Path) -> bytes:
    """The one line of a file, which may be a pipe. Raises LicetError."""
    try:
        content = given.read(path, MOST_BYTES + 1)
        mode = os.stat(path).st_mode
    except OSError as error:
        raise LicetError(f"{path}: the passphrase cannot be read: {error.strerror}") from error
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if not line:
        raise LicetError(f"{path}: there is no passphrase in it: write one line into it")
    if len(line) > MOST_BYTES:
        raise LicetError(f"{path}: longer than {counted(MOST_BYTES, 'byte')}: write one line into it")
    if b"\n" in line or b"\0" in line:
        raise LicetError(f"{path}: more than one line: write the passphrase alone into it")
    if stat.S_ISREG(mode) and mode & 0o077:
        typer.echo(
            f"licet: warning: {path}: other users can read this passphrase (chmod 600 {path})", err=True
        )
    return line


def _asked(prompt: str) -> bytes:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))  # getpass would read stdin, with an echo
    except OSError as error:
        raise LicetError("no terminal to ask for the passphrase: use --passphrase-file") from error
    try:
        answer = getpass.getpass(prompt)
    except EOFError as error:
        raise LicetError("no passphrase was given: nothing was written") from error
    if not answer:
        raise LicetError("an empty passphrase: nothing was written")
    return answer.encode("utf-8", "surrogateescape")
