"""Bytes that are no request, and halves of some: RATE, then ADDRESS PORT or the PATH of a unix socket."""

from __future__ import annotations

import random
import socket
import sys

from tests.soak.programs.pace import name_of, say, ticks

HALVES = (
    b"GET /v1/status HT",
    b"POST /v1/mode HTTP/1.1\r\nHost: licet\r\nContent-Length: 99999999\r\n\r\n{",
    b'POST /v1/mode HTTP/1.1\r\nHost: licet\r\nContent-Length: 12\r\n\r\n{"mode": nul',
    b"POST /v1/reload HTTP/1.1\r\nHost: licet\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5_000,
    b"GET /v1/events?limit=-1&follow=\xff HTTP/1.1\r\nHost: licet\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n" * 20,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


def throw(to: list[str], what: bytes) -> str:
    family = socket.AF_INET if len(to) == 2 else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(0.2)
        try:
            one.connect((to[0], int(to[1])) if len(to) == 2 else to[0])
            one.sendall(what)
            return "answered" if one.recv(4096) else "closed"
        except OSError as error:
            return name_of(error)


def main() -> None:
    rate, *to = sys.argv[1:]
    chosen = random.Random(11)
    answers: dict[str, int] = {}
    for number in ticks(float(rate)):
        what = chosen.randbytes(chosen.randint(1, 4096)) if number % 2 else HALVES[number // 2 % len(HALVES)]
        answer = throw(to, what)
        answers[answer] = answers.get(answer, 0) + 1
    say(made=sum(answers.values()), answers=answers)


if __name__ == "__main__":
    main()
