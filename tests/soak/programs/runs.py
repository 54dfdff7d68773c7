"""A program that ends and is started again: RATE PROGRAM ADDRESS PORT. Each run makes ten connections, all of
which go through."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.soak.programs.pace import say, ticks

EACH = 10


def main() -> None:
    rate, program, address, port = sys.argv[1:]
    argv = [program, address, port, "--connections", str(EACH), "--rate", rate]
    made, wrong = 0, 0
    for _ in ticks(float(rate) / EACH):
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        said = json.loads(done.stdout)
        made += said["attempts"]
        if said["ok"] != said["attempts"]:
            wrong += said["attempts"] - said["ok"]
            say(wrong=f"{said['errors']} in a run of {EACH}")
    say(made=made, answers={"ok": made - wrong}, wrong_answers=wrong)


if __name__ == "__main__":
    main()
