"""The kernel programs as one source: bcc rewrites map methods only in the main file, so bpf/*.h and
*.c are joined in a fixed order, with #line, and the compiler still names the right file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

HEADERS = (
    "abi.h",
    "maps.h",
    "read.h",
    "hash.h",
    "container.h",
    "identity.h",
    "path.h",
    "glob.h",
    "exe.h",
    "activation.h",
    "listener.h",
    "mode.h",
    "decide.h",
    "target.h",
    "mptcp.h",
    "delivery.h",
    "uses.h",
    "tell.h",
    "refuse.h",
    "local.h",
    "remote.h",
    "tuples.h",
    "follow.h",
    "listening.h",
    "cgroup.h",
)
PROGRAMS = ("connect.c", "flow.c", "accept.c", "cgroup.c")
GATES = (
    "gate.c",
    "owner.h",
    "bind.c",
    "listen.c",
    "rewritten.c",
    "misled.h",
    "lookup.h",
    "lookup.c",
    "packet.h",
    "tc.c",
    "exec.c",
    "rmdir.c",
)

DATAGRAMS = (
    "packet.h",
    "datagram.h",
    "lookup.h",
    "send.c",
    "receive.c",
    "egress.c",
    "arrival.h",
    "arrive.c",
    "forward.c",
)
"""UDP: loaded while the policy declares a port of it."""

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


def digest(source: str, folder: Path) -> str:
    """Of all that is compiled: the joined source, and the headers in include/ of `folder` (bpf/)."""
    seen = hashlib.sha256(source.encode())
    for file in sorted((folder / "include").rglob("*.h")):
        seen.update(f"\0{file.relative_to(folder)}\0".encode())
        seen.update(file.read_bytes())
    return seen.hexdigest()


def source_hash(source: str, flags: list[str], folder: Path) -> str:
    """Names what was compiled: a daemon whose source or headers differ loads anew."""
    return hashlib.sha256("\0".join([digest(source, folder), *flags]).encode()).hexdigest()[:16]
