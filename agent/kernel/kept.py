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
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.kernel.code import Code
from agent.kernel.compiler import compile_code
from agent.kernel.programs import Programs

FORMAT = 1
MOST = 16
"""Files kept, the newest ones."""
HERE = Path(__file__).parent
TAKEN_BY = ("compiler.py", "code.py")
LIBRARIES = (Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu"))


def compiled(source: str, flags: Sequence[str], folder: Path, keep: Path | None) -> Programs:
    """`folder`: bpf/; `keep`: where code is kept, None: nowhere. Raises KernelError."""
    if keep is None:
        return Programs(compile_code(source, flags, folder))
    path = keep / name_of(source, flags, folder)
    code = read(path)
    if code is None:
        code = compile_code(source, flags, folder)
        with contextlib.suppress(OSError):  # a full disk, a read-only one: the next start compiles again
            write(path, code)
    return Programs(code)


def name_of(source: str, flags: Sequence[str], folder: Path) -> str:
    """Changes with whatever the compilation may depend on."""
    about = [str(FORMAT), platform.machine(), platform.release(), platform.version(), *_bcc(), *flags]
    name = hashlib.sha256("\0".join(about).encode())
    name.update(source.encode())
    for file in (*sorted((folder / "include").rglob("*.h")), *(HERE / each for each in TAKEN_BY)):
        name.update(file.read_bytes())
    return name.hexdigest()[:32]


def _bcc() -> Iterator[str]:
    """Which one it is, without importing it."""
    found = importlib.util.find_spec("bcc")
    module = [Path(found.origin)] if found and found.origin else []
    libraries = (path for root in LIBRARIES for path in sorted(root.glob("libbcc.so.*")))
    for path in (*module, *libraries):
        about = path.stat()
        yield f"{path} {about.st_mtime_ns} {about.st_size}"


def read(path: Path) -> Code | None:
    """None: there is nothing, nothing whole, or somebody else could have written it."""
    try:
        if not all(_only_ours(one) for one in (path.parent, path)):
            return None
        said, _, text = path.read_text(encoding="utf-8").partition("\n")
        return Code.from_json(text) if said == _digest(text) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _only_ours(path: Path) -> bool:
    about = path.stat()
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def write(path: Path, code: Code) -> None:
    """In one step; the oldest of too many go. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = code.to_json()
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new-", delete=False) as fresh:
        try:
            fresh.write(f"{_digest(text)}\n{text}")
            fresh.flush()
            os.replace(fresh.name, path)
        except BaseException:
            os.unlink(fresh.name)
            raise
    kept = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[MOST:]:
        old.unlink()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
