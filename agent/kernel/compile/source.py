"""Joins bpf/*.h and *.c into one source in a fixed order, because bcc rewrites map methods only in the main
file. With #line, compiler messages still name the right file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

HEADERS = (
    "abi.h",
    "maps.h",
    "lib/read.h",
    "lib/hash.h",
    "lib/container.h",
    "lib/identity.h",
    "lib/path.h",
    "lib/glob.h",
    "lib/exe.h",
    "lib/activation.h",
    "lib/listener.h",
    "lib/mode.h",
    "lib/sets.h",
    "lib/groups.h",
    "lib/clauses.h",
    "lib/decide.h",
    "lib/target.h",
    "lib/mptcp.h",
    "lib/delivery.h",
    "lib/uses.h",
    "lib/counters.h",
    "lib/events.h",
    "lib/enforce.h",
    "lib/judge_local.h",
    "lib/judge_remote.h",
    "lib/tuples.h",
    "lib/flow_start.h",
    "lib/listening.h",
    "lib/cgroup.h",
)
PROGRAMS = (
    "hooks/connect_observer.c",
    "lib/accept.h",
    "hooks/flow_tracker.c",
    "hooks/accept_observer.c",
    "hooks/cgroup_watch.c",
)
GATES = (
    "hooks/connect_gate.c",
    "lib/owner.h",
    "hooks/bind_gate.c",
    "hooks/listen_observer.c",
    "hooks/connect_rewritten.c",
    "lib/misled.h",
    "lib/lookup.h",
    "hooks/socket_gate.c",
    "lib/packet.h",
    "lib/reset.h",
    "hooks/tc_gate.c",
    "hooks/exec_watch.c",
    "hooks/cgroup_removal.c",
)

DATAGRAMS = (
    "lib/packet.h",
    "lib/datagram.h",
    "lib/lookup.h",
    "hooks/send_observer.c",
    "hooks/receive_observer.c",
    "lib/datagram_ends.h",
    "hooks/egress_observer.c",
    "lib/arrival.h",
    "hooks/datagram_arrival.c",
    "hooks/forward_gate.c",
)
"""Programs for UDP, loaded while the policy declares a UDP port."""

_OFFSET = re.compile(r"\bOFF_([a-z0-9_]+?)__(\w+)")


def bpf_folder() -> Path:
    """The folder bpf/, beside the Python package in a checkout and in an installation."""
    return Path(__file__).resolve().parents[3] / "bpf"


def joined(folder: Path, names: tuple[str, ...] = (*HEADERS, *PROGRAMS)) -> str:
    texts = ((name, (folder / name).read_text(encoding="utf-8")) for name in names)
    return "\n".join(f'#line 1 "bpf/{name}"\n{text}' for name, text in texts)


def fields_read(source: str) -> list[tuple[str, str]]:
    """(struct, field) of every kernel struct field that the programs read, from the OFF_… names."""
    return sorted({(found[1], found[2]) for found in _OFFSET.finditer(source)})


def digest(source: str, folder: Path) -> str:
    """A hash of all compiled text: the joined source, and the headers in include/ of `folder` (bpf/)."""
    seen = hashlib.sha256(source.encode())
    for file in sorted((folder / "include").rglob("*.h")):
        seen.update(f"\0{file.relative_to(folder)}\0".encode())
        seen.update(file.read_bytes())
    return seen.hexdigest()


def source_hash(source: str, flags: list[str], folder: Path) -> str:
    """Identifies what was compiled. A daemon whose source or headers differ loads the programs again."""
    return hashlib.sha256("\0".join([digest(source, folder), *flags]).encode()).hexdigest()[:16]
