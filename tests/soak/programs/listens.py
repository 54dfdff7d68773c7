"""Waves of listeners at loopback addresses: COUNT HELD_S PAUSE_S PORT…. Each wave takes the next port, which
the kernel gives (IP_LOCAL_PORT_RANGE), so that no bind() names it."""

from __future__ import annotations

import resource
import socket
import struct
import sys

from tests.soak.programs.pace import over, say

IP_LOCAL_PORT_RANGE = 51
AT_ONCE = 200


def listener(port: int, number: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", port << 16 | port))
    one.bind((socket.inet_ntoa(struct.pack("!I", 127 << 24 | 1 << 20 | number)), 0))
    one.listen()
    return one


def main() -> None:
    count, held_s, pause_s, *ports = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    waves, made, failed = 0, 0, 0
    while not over(float(pause_s)):
        held = []
        for number in range(int(count)):
            try:
                held.append(listener(int(ports[waves % len(ports)]), number))
            except OSError:
                failed += 1
            if number % AT_ONCE == 0 and over(0.05):
                break
        made += len(held)
        ended = over(float(held_s))
        for one in held:
            one.close()
        waves += 1
        if ended:
            break
    say(made=made, waves=waves, failed=failed)


if __name__ == "__main__":
    main()
