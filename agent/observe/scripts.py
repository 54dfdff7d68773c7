"""Programs that are scripts: the process that runs one is its interpreter (execve(2)), so that a selector
which names the script means nobody."""

from __future__ import annotations

import glob
import os
import re
import shutil

from agent.model import Script

_BYTES = 65536
_LINE_BYTES = 256
"""BINPRM_BUF_SIZE in include/uapi/linux/binfmts.h."""
_DEPTH = 5
"""An interpreter may be a script itself (fs/exec.c: exec_binprm)."""
_EXEC = re.compile(rb"^[ \t]*exec[ \t]+(?:-a[ \t]+\S+[ \t]+)?[\"']?(/[^\s\"'$`;|&<>()*?\[]+)", re.MULTILINE)
_SHELLS = frozenset({"sh", "dash", "bash", "ksh", "mksh", "zsh", "busybox"})
_POSTGRESQL = "/usr/lib/postgresql/*/bin"
"""Where Debian's pg_wrapper finds what /usr/bin/psql and its likes stand for."""


def script_at(path: str) -> Script | None:
    """None: no script, or not readable."""
    text = _head(path)
    interpreter = _interpreter(text)
    if not interpreter:
        return None
    starts = [each for each in _started(path, interpreter, text) if not _interpreter(_head(each))]
    return Script(path, interpreter, tuple(dict.fromkeys(starts)))


def _head(path: str) -> bytes:
    try:
        # a FIFO that nobody writes is no wait, and a device is not read
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.pread(fd, _BYTES, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _interpreter(text: bytes) -> str:
    """Where the program ends that runs it; "" of what is no script."""
    found = ""
    for _ in range(_DEPTH):
        if not text.startswith(b"#!"):
            break
        words = os.fsdecode(text[2:_LINE_BYTES].partition(b"\n")[0].partition(b"\0")[0]).split()
        if not words:
            break
        found = os.path.realpath(_behind_env(words))
        text = _head(found)
    return found


def _behind_env(words: list[str]) -> str:
    """`/usr/bin/env -S NAME=value python3` is python3, as it is found from here."""
    if os.path.basename(words[0]) != "env":
        return words[0]
    names = (word for word in words[1:] if not word.startswith("-") and "=" not in word)
    name = next(names, "")
    return shutil.which(name) or words[0]


def _started(path: str, interpreter: str, text: bytes) -> list[str]:
    """Programs that it runs in its own place, as far as it says so."""
    if os.path.basename(os.path.realpath(path)) == "pg_wrapper":
        return sorted(filter(_runs, glob.glob(f"{_POSTGRESQL}/{glob.escape(os.path.basename(path))}")))
    if os.path.basename(interpreter) not in _SHELLS:
        return []
    found = (os.fsdecode(match[1]) for match in _EXEC.finditer(text))
    return [os.path.realpath(each) for each in found if _runs(each)]


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
