"""Detects scripts. A process that runs a script executes its interpreter (execve(2)), so a selector that
names the script matches no process."""

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
"""The directory in which Debian's pg_wrapper finds the program for /usr/bin/psql and similar names."""


def script_at(path: str) -> Script | None:
    """The script at this path; None if it is not a script, or not readable."""
    text = _head(path)
    interpreter = _interpreter(text)
    if not interpreter:
        return None
    starts = [each for each in _started(path, interpreter, text) if not _interpreter(_head(each))]
    return Script(path, interpreter, tuple(dict.fromkeys(starts)))


def _head(path: str) -> bytes:
    try:
        # O_NONBLOCK: a FIFO without a writer does not block, and a device is not read
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
    """Real path of the program that runs this text; "" if the text is not a script."""
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
    """The interpreter: for `/usr/bin/env -S NAME=value python3` it is python3, found in the agent's PATH."""
    if os.path.basename(words[0]) != "env":
        return words[0]
    names = (word for word in words[1:] if not word.startswith("-") and "=" not in word)
    name = next(names, "")
    return shutil.which(name) or words[0]


def _started(path: str, interpreter: str, text: bytes) -> list[str]:
    """Programs that the script execs, as far as its text shows them."""
    if os.path.basename(os.path.realpath(path)) == "pg_wrapper":
        return sorted(filter(_runs, glob.glob(f"{_POSTGRESQL}/{glob.escape(os.path.basename(path))}")))
    if os.path.basename(interpreter) not in _SHELLS:
        return []
    found = (os.fsdecode(match[1]) for match in _EXEC.finditer(text))
    return [os.path.realpath(each) for each in found if _runs(each)]


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
