"""User and network namespaces of a user's own, each with listeners and the host's address in it, for a while:
RATE LASTS_S HOST_ADDRESS OWN_PORT [PORT…]. In each one connection to OWN_PORT at the host's address."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import time

from tests.soak.programs.pace import name_of, say, ticks

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1


def bring_up(address: str) -> None:
    """lo, and an address of the host's on it (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
        own = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
        fcntl.ioctl(any_socket, SIOCSIFADDR, struct.pack("16s16s8x", b"lo:1", own))


def live(lasts_s: float, address: str, own: int, ports: list[int]) -> None:
    """In a child: exits with 0, or with 1 where the system gave it no namespace."""
    signal.alarm(int(lasts_s) + 10)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        os._exit(1)
    try:
        bring_up(address)
        held = [socket.create_server(("0.0.0.0", port)) for port in (own, *ports)]
        with socket.socket() as one:
            one.settimeout(2)
            one.connect_ex((address, own))
        time.sleep(lasts_s)
        os._exit(0 if held else 1)
    except OSError as error:
        print(f"in a namespace of its own: {name_of(error)}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    rate, lasts_s, address, *ports = sys.argv[1:]
    own, *others = map(int, ports)
    alive: set[int] = set()
    made, failed = 0, 0
    for _ in ticks(float(rate)):
        child = os.fork()
        if child == 0:
            live(float(lasts_s), address, own, others)
        alive.add(child)
        made += 1
        while alive and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            alive.discard(ended[0])
            failed += ended[1] != 0
    for child in alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    say(made=made, failed=failed)


if __name__ == "__main__":
    main()
