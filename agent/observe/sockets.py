"""Lists the TCP and UDP sockets of one network namespace with sock_diag(7)."""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from agent.errors import KernelError
from agent.model import Address, Protocol, Socket
from agent.observe.addresses import from_wire
from agent.system.closing import Closing
from agent.system.netlink import NETLINK_SOCK_DIAG, Netlink, attributes
from agent.system.sock_diag import SOCK_DIAG_BY_FAMILY, one_socket

ESTABLISHED = 1
SYN_SENT = 2
FIN_WAIT1 = 4
FIN_WAIT2 = 5
CLOSE = 7
CLOSE_WAIT = 8
LAST_ACK = 9
LISTEN = 10
CLOSING = 11

OPEN_STATES = (ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING)
"""TCP states of a flow (include/net/tcp_states.h). A half-open connection (SYN_RECV) is not yet a flow,
and one in TIME_WAIT no longer."""

_TIME_WAIT_TIMER = 3
_SKV6ONLY = 11
_SOCKOPT = 22
_TRANSPARENT = 1 << 5
"""Bit in the first byte of struct inet_diag_sockopt (Linux 5.10)."""
_REQUEST = struct.Struct("=BBBxI48x")
"""struct inet_diag_req_v2 of linux/inet_diag.h. The socket id stays zero, which matches any socket."""
_ROW = struct.Struct("=BBBx2s2s16s16sIIIIIIII")
"""struct inet_diag_msg: family, state, timer, id{sport, dport, src, dst, if, cookie}, expires, rqueue,
wqueue, uid, inode."""
_TIMER, _COOKIE = 2, 44
"""Offsets in it."""
_HALVES = struct.Struct("=II")


_TCP_IN_USE = re.compile(r"^TCP6?: inuse (\d+)", re.MULTILINE)


class SocketDiag(Closing):
    """Lists the sockets of the network namespace that the constructor runs in; use `run_in_namespace` for
    another one.

    `netns` is that namespace's cookie, which every Socket carries. Rows have no order. A socket that
    appears or closes during the listing may be missing. No socket appears twice."""

    def __init__(self, netns: int) -> None:
        self.netns = netns
        try:
            self._netlink = Netlink(NETLINK_SOCK_DIAG)
        except OSError as error:
            raise KernelError(
                f"the kernel cannot list sockets (NETLINK_SOCK_DIAG: {error.strerror}): "
                "load the module with: modprobe inet_diag"
            ) from error

    def close(self) -> None:
        self._netlink.close()

    def listening(self, protocols: Iterable[Protocol] = (Protocol.TCP, Protocol.UDP)) -> list[Socket]:
        """Listening TCP sockets, and bound UDP sockets without a peer."""
        return list(self.listening_rows(protocols, {}).values())

    def listening_rows(
        self, protocols: Iterable[Protocol], before: Mapping[bytes, Socket]
    ) -> dict[bytes, Socket]:
        """Like `listening`, by the kernel's row of each. A row that is in `before` is not parsed again: there
        can be 20,000."""
        found: dict[int, tuple[bytes, Socket]] = {}
        for protocol in protocols:
            state = LISTEN if protocol == Protocol.TCP else CLOSE
            for row in self._dump(protocol, (state,)):
                one = before.get(row) or self._parse(protocol, row, None)
                if one and one.local_port:
                    found[one.cookie] = row, one
        return dict(found.values())

    def connections(
        self,
        ports: Container[int] | None = None,
        protocols: Iterable[Protocol] = (Protocol.TCP,),
        without: Container[int] = (),
    ) -> list[Socket]:
        """Sockets with a peer: all, or those whose local or remote port is in `ports`. Those whose cookie is
        in `without` are left out.

        inode is 0 if no process holds the socket: it was not accepted yet, or its process has closed it
        and the kernel still sends."""
        found: list[Socket] = []
        for protocol in protocols:
            states = OPEN_STATES if protocol == Protocol.TCP else (ESTABLISHED,)
            found += self._rows(protocol, states, ports, without)
        return found

    def cookies(self) -> set[int]:
        """Cookies of the TCP sockets that `connections` lists. As objects, many such rows would need more
        memory than the rest of the agent."""
        rows = self._dump(Protocol.TCP, OPEN_STATES)
        return {_cookie(row) for row in rows if row[_TIMER] != _TIME_WAIT_TIMER}

    def has(self, cookie: int, local: tuple[Address, int], remote: tuple[Address, int]) -> bool:
        """True if this TCP socket exists with this peer. It costs one look-up; a list would walk through
        the kernel's table of all namespaces."""
        try:
            row = self._netlink.ask(SOCK_DIAG_BY_FAMILY, one_socket(cookie, local, remote))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise KernelError(f"asking for a TCP socket failed: {error.strerror}") from error
        found = self._parse(Protocol.TCP, row, None)
        return found is not None and found.cookie == cookie and found.state in OPEN_STATES

    def _rows(
        self,
        protocol: Protocol,
        states: Iterable[int],
        ports: Container[int] | None,
        without: Container[int] = (),
    ) -> Iterable[Socket]:
        # hash chains change during the kernel's walk, so a row can appear twice
        found: dict[int, Socket] = {}
        for row in self._dump(protocol, states):
            if _cookie(row) not in without and (one := self._parse(protocol, row, ports)):
                found[one.cookie] = one
        return found.values()

    def _dump(self, protocol: Protocol, states: Iterable[int]) -> Iterator[bytes]:
        mask = sum(1 << state for state in states)
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                request = _REQUEST.pack(family, protocol, 0, mask)
                yield from self._netlink.rows(SOCK_DIAG_BY_FAMILY, request)
        except OSError as error:
            module = f"{protocol.name.lower()}_diag"
            if error.errno == errno.ENOENT:
                raise KernelError(
                    f"the kernel cannot list {protocol.name} sockets ({module} is missing): "
                    f"load it with: modprobe {module}"
                ) from error
            raise KernelError(f"listing {protocol.name} sockets failed: {error.strerror}") from error

    def _parse(self, protocol: Protocol, row: bytes, ports: Container[int] | None) -> Socket | None:
        family, state, timer, sport, dport, src, dst, _, _, _, _, _, _, uid, inode = _ROW.unpack_from(row)
        local_port, remote_port = int.from_bytes(sport, "big"), int.from_bytes(dport, "big")
        if ports is not None and local_port not in ports and remote_port not in ports:
            return None
        if timer == _TIME_WAIT_TIMER:
            return None  # the remainder of a closed connection, which may be shown as FIN_WAIT2
        more = dict(attributes(row, _ROW.size))
        return Socket(
            protocol=protocol,
            family=family,
            state=state,
            local=_address(family, src),
            local_port=local_port,
            remote=_address(family, dst),
            remote_port=remote_port,
            inode=inode,
            cookie=_cookie(row),
            uid=uid,
            netns=self.netns,
            v6only=family == socket.AF_INET6 and more.get(_SKV6ONLY, b"\0")[0] != 0,
            transparent=bool(more.get(_SOCKOPT, b"\0")[0] & _TRANSPARENT),
        )


def tcp_in_use() -> int:
    """The number of TCP sockets in the calling thread's namespace that listen or have a peer."""
    return sum(_in_use(Path("/proc/thread-self/net", name)) for name in ("sockstat", "sockstat6"))


def _in_use(path: Path) -> int:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0  # no IPv6
    return int(_TCP_IN_USE.findall(text)[0])


def _cookie(row: bytes) -> int:
    low, high = _HALVES.unpack_from(row, _COOKIE)
    return int(high << 32 | low)


def _address(family: int, raw: bytes) -> Address:
    nowhere = _NOWHERE.get(family) if raw == _ZEROS else None
    return nowhere or from_wire(raw[:4] if family == socket.AF_INET else raw)


_ZEROS = bytes(16)
_NOWHERE: dict[int, Address] = {socket.AF_INET: from_wire(bytes(4)), socket.AF_INET6: from_wire(_ZEROS)}
"""The peer address of every listening socket."""
