"""Packets from sources that are nobody's, past the stack: INTERFACE MAC DESTINATION RATE WAY PORT NET.

WAY: syn or udp. NET: the first byte of the sources, of which there are 2**24; none comes twice in an hour."""

from __future__ import annotations

import socket
import struct
import sys

from tests.soak.programs.pace import name_of, say, ticks

ETH_P_IP, SYN = 0x0800, 0x02
STEP = 0x9E3779B1 & 0xFFFFFF | 1
"""Odd: its multiples meet each of 2**24 sources once."""


def checksum(data: bytes) -> int:
    total = sum(word for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_checksum(header: bytes, at: int, pseudo: bytes = b"") -> bytes:
    return header[:at] + struct.pack("!H", checksum(pseudo + header)) + header[at + 2 :]


def packet(number: int, net: int, destination: bytes, way: str, port: int) -> bytes:
    source = bytes([net]) + (number * STEP & 0xFFFFFF).to_bytes(3, "big")
    own_port = 1024 + number % 60_000
    if way == "syn":
        protocol = socket.IPPROTO_TCP
        header = struct.pack("!HHIIBBHHH", own_port, port, number & 0xFFFFFFFF, 0, 5 << 4, SYN, 1024, 0, 0)
        at = 16
    else:
        protocol = socket.IPPROTO_UDP
        header, at = struct.pack("!HHHHx", own_port, port, 9, 0), 6
    ends = source + destination
    pseudo = ends + struct.pack("!HH", protocol, len(header))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(header), 0, 0, 64, protocol, 0) + ends
    return with_checksum(ip, 10) + with_checksum(header, at, pseudo)


def main() -> None:
    interface, to, address, rate, way, port, net = sys.argv[1:]
    destination = socket.inet_aton(address)
    made, failed = 0, 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
        where = (interface, ETH_P_IP, 0, 0, bytes.fromhex(to))
        for number in ticks(float(rate)):
            try:
                out.sendto(packet(number, int(net), destination, way, int(port)), where)
                made += 1
            except OSError as error:
                failed += 1
                if failed == 1:
                    say(note=name_of(error))
    say(made=made, failed=failed)


if __name__ == "__main__":
    main()
