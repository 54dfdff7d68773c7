"""Compiled code, kept in a folder for the next start: compiling takes seconds of a processor, and more memory
than all the rest. Standard library only.

What is kept is named after all that it depends on, so none of it is ever out of date: a changed source, other
offsets, another kernel or bcc is another name. What cannot be read, or is not whole, is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agent.kernel.code import Code
from agent.kernel.compiler import compile_code
from agent.kernel.programs import Programs

FORMAT = 1
MOST = 16
"""Files kept, the newest ones."""


def compiled(source: str, flags: Sequence[str], folder: Path, keep: Path | None) -> Programs:
    """`folder`: bpf/; `keep`: where code is kept, None: nowhere. Raises KernelError."""
    if keep is None:
        return Programs(compile_code(source, flags, folder))
    path = keep / _name(source, flags)
    code = read(path)
    if code is None:
        code = compile_code(source, flags, folder)
        with contextlib.suppress(OSError):  # a full disk, a read-only one: the next start compiles again
            write(path, code)
    return Programs(code)


def _name(source: str, flags: Sequence[str]) -> str:
    parts = [str(FORMAT), platform.machine(), platform.release(), platform.version(), _bcc(), source, *flags]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _bcc() -> str:
    """Which one it is, without importing it."""
    found = importlib.util.find_spec("bcc")
    if found is None or not found.origin:
        return ""
    about = os.stat(found.origin)
    return f"{found.origin} {about.st_mtime_ns} {about.st_size}"


def read(path: Path) -> Code | None:
    """None: there is nothing, or nothing whole."""
    try:
        said, _, text = path.read_text(encoding="utf-8").partition("\n")
        return Code.from_json(text) if said == _digest(text) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, code: Code) -> None:
    """In one step; the oldest of too many go. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = code.to_json()
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new-", delete=False) as fresh:
        fresh.write(f"{_digest(text)}\n{text}")
    os.replace(fresh.name, path)
    kept = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[MOST:]:
        old.unlink()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
