"""Attempts of one kind, each of which has one right answer: ADDRESS PORT WAY RATE RIGHT [SOURCE…].

WAY: tcp, or udp by connect() and by sendto() in turns. RIGHT: names of errors, or "ok", with commas between.
SOURCE: addresses to come from, in turns. A wrong answer is said at once."""

from __future__ import annotations

import socket
import sys
import time

from tests.soak.programs.pace import name_of, say, ticks

PATIENCE_S = {"tcp": 5.0, "udp": 0.4}


def attempt(number: int, address: str, port: int, way: str, source: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM) as one:
        one.settimeout(PATIENCE_S[way])
        try:
            if source:
                one.bind((source, 0))
            if way == "udp" and number % 2:
                one.sendto(b"x", (address, port))
            else:
                one.connect((address, port))
                one.sendall(b"x")
            return "ok" if one.recv(1) == b"x" else "EOF"
        except OSError as error:
            return name_of(error)


def main() -> None:
    address, port, way, rate, right, *sources = sys.argv[1:]
    answers: dict[str, int] = {}
    wrong, slowest_s = 0, 0.0
    for number in ticks(float(rate)):
        source = sources[number % len(sources)] if sources else ""
        began_s = time.monotonic()
        answer = attempt(number, address, int(port), way, source)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        answers[answer] = answers.get(answer, 0) + 1
        if answer not in right.split(","):
            wrong += 1
            say(wrong=f"{answer}, not {right}, at attempt {number} {source}")
    made = sum(answers.values())
    say(made=made, answers=answers, wrong_answers=wrong, slowest_s=round(slowest_s, 3))


if __name__ == "__main__":
    main()
