"""Runs a command as root in a guest with Debian's stock kernel, in a copy of this checkout:

    python packaging/vm/run.py [--systemd] [--file FILE]... [--append KERNEL_ARGUMENTS] [--timeout SECONDS]
        [-- COMMAND ...]

Without a command it runs what `make test-vm` runs. Ends with the command's exit status; what the command
leaves in /result is found in build/vm-result, of a guest with systemd in build/vm-result-systemd.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import image
from boot import NEVER_REPORTED, TIMED_OUT, Job, boot

TESTS = {False: "sh packaging/vm/guest-tests", True: "sh packaging/vm/guest-host"}
WHAT_IS_WRONG = {
    TIMED_OUT: "vm: the guest did not end in time",
    NEVER_REPORTED: "vm: the guest ended without a result; what it said last is above",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command in a guest with Debian's stock kernel.")
    parser.add_argument("--systemd", action="store_true", help="with systemd as first process")
    parser.add_argument("--file", type=Path, action="append", default=[], help="goes into .vm-files there")
    parser.add_argument("--append", default="", help="more arguments for the guest's kernel")
    parser.add_argument("--timeout", type=float, default=2400.0, help="seconds until the guest is ended")
    parser.add_argument("command", nargs="*", help="default: the tests")
    given = parser.parse_args()
    job = Job(
        script=shlex.join(given.command) if given.command else TESTS[given.systemd],
        results=image.ROOT / "build" / ("vm-result-systemd" if given.systemd else "vm-result"),
        systemd=given.systemd,
        files=tuple(given.file),
        kernel_arguments=given.append,
        timeout_s=given.timeout,
    )
    status = boot(image.image(image.ROOT / "build" / "vm"), job)
    if status in WHAT_IS_WRONG:
        print(WHAT_IS_WRONG[status], file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
