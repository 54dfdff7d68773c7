"""Compiled code, kept in a folder for the next start: compiling takes seconds of a processor, and more memory
than all the rest. Standard library only.

What is kept is named after all that it depends on, so none of it is ever out of date: a changed source, other
offsets, another kernel or bcc is another name. What cannot be read, or is not whole, is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.kernel.compile.compiled import Code
from agent.kernel.compile.compiler import compile_code
from agent.kernel.compile.source import digest
from agent.system import files, ownership

FORMAT = 1
MOST = 16
"""Files kept, the newest ones."""
_NAME = re.compile("[0-9a-f]{32}")
_BEGINNING = re.compile(rb"[0-9a-f]{64}\n")
HERE = Path(__file__).parent
TAKEN_BY = ("compiler.py", "compiled.py")
LIBRARIES = (Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu"))


def compiled(source: str, flags: Sequence[str], folder: Path, keep: Path | None) -> Code:
    """`folder`: bpf/; `keep`: where code is kept, None: nowhere. Raises KernelError."""
    if keep is None:
        return compile_code(source, flags, folder)
    path = keep / name_of(source, flags, folder)
    code = read(path)
    if code is None:
        code = compile_code(source, flags, folder)
        with contextlib.suppress(OSError):  # a full disk, a read-only one: the next start compiles again
            write(path, code)
    return code


def name_of(source: str, flags: Sequence[str], folder: Path) -> str:
    """Changes with whatever the compilation may depend on."""
    about = [str(FORMAT), platform.machine(), platform.release(), platform.version(), *_bcc(), *flags]
    name = hashlib.sha256("\0".join(about).encode())
    name.update(digest(source, folder).encode())
    for each in TAKEN_BY:
        name.update((HERE / each).read_bytes())
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
        if any(doubt.refuses or doubt.path in (path, path.parent) for doubt in ownership.doubts([path])):
            return None
        said, _, text = files.read_text(path).partition("\n")
        return Code.from_json(text) if said == _digest(text) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, code: Code) -> None:
    """In one step; the oldest of too many go. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = code.to_json()
    files.write_text(path, f"{_digest(text)}\n{text}")
    kept = sorted(filter(_is_ours, path.parent.iterdir()), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[MOST:]:
        old.unlink()


def _is_ours(path: Path) -> bool:
    """Did we write it? The folder may be in use by others, too."""
    try:
        return (
            bool(_NAME.fullmatch(path.name)) and _BEGINNING.fullmatch(files.read_bytes(path, 65)) is not None
        )
    except OSError:
        return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
