"""Connections that say nothing, half a request, or read no answer: ADDRESS PORT MANY RATE. Whoever is put out
comes again, at most RATE a second."""

from __future__ import annotations

import select
import socket
import sys

from tests.soak.programs.pace import say, ticks

SAYS = (b"", b"GET /healthz HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
NEVER_READ = 2


def begin(address: str, port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setblocking(False)
    one.connect_ex((address, port))
    return one


def main() -> None:
    address, port, many, rate = sys.argv[1:]
    held: dict[int, tuple[socket.socket, int]] = {}
    poll = select.poll()
    made, put_out, most = 0, 0, 0
    for number in ticks(float(rate)):
        if len(held) < int(many):
            one, kind = begin(address, int(port)), number % len(SAYS)
            held[one.fileno()] = one, kind
            poll.register(one, select.POLLOUT | select.POLLRDHUP)
            made += 1
            most = max(most, len(held))
        for fd, what in poll.poll(0):
            one, kind = held[fd]
            if what & (select.POLLERR | select.POLLHUP | select.POLLRDHUP):
                poll.unregister(fd)
                del held[fd]
                one.close()
                put_out += 1
            elif what & select.POLLOUT:
                poll.modify(fd, select.POLLRDHUP)
                try:
                    one.send(SAYS[kind])
                except OSError:
                    continue  # the next look finds it put out
    say(made=made, put_out=put_out, most=most)


if __name__ == "__main__":
    main()
