"""Caches compiled code in a folder for the next start. Compiling takes seconds of CPU time, and more memory
than everything else. Standard library only.

The name of a cache file is a hash of everything that the code depends on, so no file is ever out of date. A
changed source, other offsets, another kernel or another bcc gives another name. Code whose file is unreadable
or incomplete is compiled again.
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
"""The number of files in the cache; the newest stay."""
_NAME = re.compile("[0-9a-f]{32}")
_BEGINNING = re.compile(rb"[0-9a-f]{64}\n")
HERE = Path(__file__).parent
TAKEN_BY = ("compiler.py", "compiled.py")
LIBRARIES = (Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu"))


def compiled(source: str, flags: Sequence[str], folder: Path, keep: Path | None) -> Code:
    """`folder`: bpf/. `keep`: the folder of the cache, None: no cache. Raises KernelError."""
    if keep is None:
        return compile_code(source, flags, folder)
    path = keep / name_of(source, flags, folder)
    code = read(path)
    if code is None:
        code = compile_code(source, flags, folder)
        with contextlib.suppress(OSError):  # disk full or read-only: the next start compiles again
            write(path, code)
    return code


def name_of(source: str, flags: Sequence[str], folder: Path) -> str:
    """The cache name: a hash of everything that the compilation may depend on."""
    about = [str(FORMAT), platform.machine(), platform.release(), platform.version(), *_bcc(), *flags]
    name = hashlib.sha256("\0".join(about).encode())
    name.update(digest(source, folder).encode())
    for each in TAKEN_BY:
        name.update((HERE / each).read_bytes())
    return name.hexdigest()[:32]


def _bcc() -> Iterator[str]:
    """Identify the installed bcc without importing it."""
    found = importlib.util.find_spec("bcc")
    module = [Path(found.origin)] if found and found.origin else []
    libraries = (path for root in LIBRARIES for path in sorted(root.glob("libbcc.so.*")))
    for path in (*module, *libraries):
        about = path.stat()
        yield f"{path} {about.st_mtime_ns} {about.st_size}"


def read(path: Path) -> Code | None:
    """None: the file is missing or incomplete, or another user could have written it."""
    try:
        if any(doubt.refuses or doubt.path in (path, path.parent) for doubt in ownership.doubts([path])):
            return None
        said, _, text = files.read_text(path).partition("\n")
        return Code.from_json(text) if said == _digest(text) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, code: Code) -> None:
    """Write the file atomically, then delete the oldest files beyond MOST. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = code.to_json()
    files.write_text(path, f"{_digest(text)}\n{text}")
    kept = sorted(filter(_is_ours, path.parent.iterdir()), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[MOST:]:
        old.unlink()


def _is_ours(path: Path) -> bool:
    """True if licet wrote the file. Other programs may use the folder, too."""
    try:
        return (
            bool(_NAME.fullmatch(path.name)) and _BEGINNING.fullmatch(files.read_bytes(path, 65)) is not None
        )
    except OSError:
        return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
