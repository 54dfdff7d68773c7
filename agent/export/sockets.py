"""Opens the two listening sockets: TCP for scrapes, and a unix socket for root and one group."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from pathlib import Path

from agent.errors import ConfigError, KernelError

CONTROL_GROUP = "licet"
MAX_PORT = 65535
BACKLOG = 512
"""The longest queue of connections that wait to be accepted. The kernel drops further ones."""


def listen_tcp(listen: str) -> socket.socket:
    """Listen on HOST:PORT, with IPv6 in brackets. Port 0 takes a free one. Raises ConfigError."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port.isdecimal() and len(port) <= len(str(MAX_PORT)) and int(port) <= MAX_PORT):
        raise ConfigError(f"listen: {listen!r} is not a valid HOST:PORT, such as 127.0.0.1:9477")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        listener.close()
        cause = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"listen: {listen}: {cause}; choose another address") from error
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Listen on a unix socket with mode 0660 and group licet, if that group exists. It replaces the socket of
    an earlier daemon: the caller holds the run lock, so no other daemon runs. Raises KernelError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        # bind() gives the file this mode, so it is never wider, not even for a moment
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(CONTROL_GROUP).gr_gid)
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise KernelError(f"{path}: cannot listen: {error.strerror or error}; see paths.run") from error
    except KernelError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise KernelError(f"{path}: exists, but is not a socket; remove it")
    path.unlink()
