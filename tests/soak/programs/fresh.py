"""Programs of names that nobody has seen: PROGRAM FOLDER DEPTH RATE ENFORCED OBSERVED. Each connects once, to
one of the two ports in turns; every fourth is a copy, the others are links. DEPTH: folders below FOLDER."""

from __future__ import annotations

import os
import shutil
import sys

from tests.soak.programs.pace import say, ticks


def main() -> None:
    program, top, depth, rate, *ports = sys.argv[1:]
    folder = "/".join([top, *(f"level-{number}" for number in range(int(depth)))])
    os.makedirs(folder, exist_ok=True)
    original = f"{top}/original"
    shutil.copy(program, original)
    made, wrong = dict.fromkeys(ports, 0), 0
    for number in ticks(float(rate)):
        port = ports[number % 2]
        path = f"{folder}/name-{number}"
        shutil.copy(program, path) if number % 4 == 0 else os.link(original, path)
        child = os.posix_spawn(path, [path, "tcp", "127.0.0.1", port], {})
        refused = os.waitpid(child, 0)[1] != 0
        os.unlink(path)
        made[port] += 1
        if refused != (port == ports[0]):
            wrong += 1
            say(wrong=f"{'refused' if refused else 'let through'} at port {port}: {path[-60:]}")
    say(made=made, wrong_answers=wrong)


if __name__ == "__main__":
    main()
