"""Ending an established connection: SOCK_DESTROY, by the socket's cookie (sock_diag(7))."""

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
    """A TCP socket, as its own side sees it. The cookie is what names it: addresses alone could by now belong
    to another connection, or lead to the listener."""

    cookie: int
    local: tuple[Address, int]
    remote: tuple[Address, int]


class Cutter(Closing):
    """Ends sockets of the network namespace it is made in."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_SOCK_DIAG, timeout_s=_TIMEOUT_S)

    def close(self) -> None:
        self._netlink.close()

    def cut(self, one: Established) -> bool:
        """The program gets ECONNABORTED, the other end a reset. False: it was gone already.

        Raises CannotDestroy where the kernel is built without it (CONFIG_INET_DIAG_DESTROY), KernelError
        where it is not allowed (CAP_NET_ADMIN)."""
        try:
            self._netlink.request(SOCK_DESTROY, one_socket(one.cookie, one.local, one.remote))
        except TimeoutError:
            raise
        except OSError as error:
            if error.errno in _GONE:
                return False
            if error.errno == errno.EOPNOTSUPP:
                raise CannotDestroy("this kernel has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)") from error
            raise KernelError(f"a connection cannot be cut (SOCK_DESTROY): {error.strerror}") from error
        return True
