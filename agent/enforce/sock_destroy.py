"""Closes an established connection with SOCK_DESTROY, which names the socket by its cookie (sock_diag(7))."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from agent.errors import KernelError
from agent.model import Address
from agent.system.closing import Closing
from agent.system.netlink import NETLINK_SOCK_DIAG, Netlink
from agent.system.sock_diag import SOCK_DESTROY, one_socket

_TIMEOUT_S = 2.0
_GONE = (errno.ENOENT, errno.ESTALE)


class CannotDestroy(KernelError):
    """This kernel has no SOCK_DESTROY."""


@dataclass(frozen=True, slots=True)
class Established:
    """A TCP socket, seen from its own side. The cookie identifies the socket. Addresses alone do not: by
    now they could belong to another connection, or to the listener."""

    cookie: int
    local: tuple[Address, int]
    remote: tuple[Address, int]


class Cutter(Closing):
    """Closes sockets of the network namespace that the constructor runs in."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_SOCK_DIAG, timeout_s=_TIMEOUT_S)

    def close(self) -> None:
        self._netlink.close()

    def cut(self, one: Established) -> bool:
        """Close one socket. Its process gets ECONNABORTED, the peer gets a reset. Return False if the
        socket no longer exists.

        Raises CannotDestroy if the kernel is built without CONFIG_INET_DIAG_DESTROY, and KernelError if
        the caller lacks CAP_NET_ADMIN."""
        try:
            self._netlink.request(SOCK_DESTROY, one_socket(one.cookie, one.local, one.remote))
        except TimeoutError:
            raise
        except OSError as error:
            if error.errno in _GONE:
                return False
            if error.errno == errno.EOPNOTSUPP:
                raise CannotDestroy("this kernel has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)") from error
            raise KernelError(f"a connection could not be closed (SOCK_DESTROY): {error.strerror}") from error
        return True
