"""The kernel programs as one source: bcc rewrites map methods only in the main file, so bpf/*.h and
*.c are joined in a fixed order, with #line, and the compiler still names the right file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

HEADERS = (
    "abi.h",
    "maps.h",
    "identity.h",
    "decide.h",
    "target.h",
    "mptcp.h",
    "tell.h",
    "refuse.h",
    "local.h",
    "remote.h",
    "follow.h",
)
PROGRAMS = ("connect.c", "flow.c", "accept.c", "cgroup.c")
GATES = ("gate.c", "bind.c", "rewritten.c", "lookup.c", "packet.h", "tc.c")

_OFFSET = re.compile(r"\bOFF_([a-z0-9_]+?)__(\w+)")


def bpf_folder() -> Path:
    """bpf/ stands beside the package, in a checkout and where a package installs it."""
    return Path(__file__).resolve().parents[2] / "bpf"


def joined(folder: Path, names: tuple[str, ...] = (*HEADERS, *PROGRAMS)) -> str:
    texts = ((name, (folder / name).read_text(encoding="utf-8")) for name in names)
    return "\n".join(f'#line 1 "bpf/{name}"\n{text}' for name, text in texts)


def fields_read(source: str) -> list[tuple[str, str]]:
    """(struct, field) of every kernel struct field the programs read, from the OFF_… names."""
    return sorted({(found[1], found[2]) for found in _OFFSET.finditer(source)})


def source_hash(source: str, flags: list[str]) -> str:
    """Names what was compiled: a daemon whose source differs loads anew."""
    return hashlib.sha256("\0".join([source, *flags]).encode()).hexdigest()[:16]
