"""Cgroups in one that a user was given, made and removed: FOLDER RATE ENFORCED OBSERVED. From each it
connects once, to one of the two ports in turns."""

from __future__ import annotations

import os
import socket
import sys

from tests.soak.programs.pace import name_of, say, ticks

NAMES = ("billing.service", "docker-%064x.scope", "user-%d.slice", "crio-%064x", "x" * 200 + "%d")


def move(folder: str) -> None:
    with open(f"{folder}/cgroup.procs", "w") as procs:
        procs.write("0")


def main() -> None:
    top, rate, *ports = sys.argv[1:]
    home = f"{top}/home"
    os.makedirs(home, exist_ok=True)
    move(home)
    made, wrong = dict.fromkeys(ports, 0), 0
    for number in ticks(float(rate)):
        name, port = NAMES[number % len(NAMES)], ports[number % 2]
        folder = f"{top}/{name % number if '%' in name else name}"
        os.mkdir(folder)
        move(folder)
        answer = "ok"
        with socket.socket() as one:
            one.settimeout(5)
            try:
                one.connect(("127.0.0.1", int(port)))
            except OSError as error:
                answer = name_of(error)
        made[port] += 1
        if answer != ("EPERM" if port == ports[0] else "ok"):
            wrong += 1
            say(wrong=f"{answer} at port {port} from {name[:20]}")
        move(home)
        os.rmdir(folder)
    say(made=made, wrong_answers=wrong)


if __name__ == "__main__":
    main()
