"""Runs `agent.license.signatures` as a child process, so that the daemon never imports cryptography."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

MODULE = "agent.license.signatures"
MOST_ANSWER_BYTES = 1 << 20
_PIECE = 64 << 10
_PACKAGE = Path(__file__).parents[2]


class NoVerdict(Exception):
    """The child gave no answer: nothing is known about any of the jobs."""


def command(module: str = MODULE) -> list[str]:
    # -P: import nothing from the working directory; -s: nor from a user's own packages
    return [sys.executable, "-P", "-s", "-m", module]


def run(jobs: Iterable[Mapping[str, Any]], timeout_s: float, start: Sequence[str] = ()) -> list[Any]:
    """The answers, one for each job. `start`: another command than that of the module.

    Raises NoVerdict."""
    try:
        # a file, not a pipe: neither side waits for the other, and the jobs are never in memory at once
        with open(os.memfd_create("licet-jobs"), "w+b") as file:
            count = 0
            for job in jobs:
                file.write(json.dumps(job).encode() + b"\n")
                count += 1
            file.seek(0)
            output = _run(list(start) or command(), file.fileno(), timeout_s)
    except OSError as error:
        raise NoVerdict(f"the verifier cannot be started: {error.strerror}") from error
    try:
        answers = [json.loads(line) for line in output.splitlines()]
    except (ValueError, RecursionError) as error:
        raise NoVerdict("the verifier gave no answer that can be read") from error
    if len(answers) != count:
        raise NoVerdict(f"the verifier gave {len(answers)} answers to {count} questions")
    return answers


def _run(start: list[str], stdin: int, timeout_s: float) -> bytes:
    deadline_s = time.monotonic() + timeout_s
    # the daemon's environment could lead to other modules, or to other settings of OpenSSL
    environment = {"PYTHONPATH": str(_PACKAGE), "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        start,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,  # Ctrl-C in the daemon's terminal is not for the child
    ) as child:
        try:
            output, errors = _read(child, deadline_s)
            child.wait(max(deadline_s - time.monotonic(), 0.001))
        except subprocess.TimeoutExpired as error:
            raise NoVerdict(f"the verifier did not end within {timeout_s:.3g} s") from error
        finally:
            child.kill()
    if child.returncode < 0:
        raise NoVerdict(f"the verifier was killed by signal {-child.returncode}")
    if child.returncode:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise NoVerdict(f"the verifier failed: {last[:200] or f'exit code {child.returncode}'}")
    return output


def _read(child: subprocess.Popen[bytes], deadline_s: float) -> tuple[bytes, bytes]:
    """What the child writes until it closes both. Raises TimeoutExpired, and NoVerdict for too much."""
    assert child.stdout
    assert child.stderr
    written = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    waiting = select.poll()
    for descriptor in written:
        waiting.register(descriptor, select.POLLIN)
    still_open = set(written)
    while still_open:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise subprocess.TimeoutExpired(child.args, 0)
        for descriptor, _ in waiting.poll(left_s * 1000):
            piece = os.read(descriptor, _PIECE)
            written[descriptor] += piece
            if not piece:
                waiting.unregister(descriptor)
                still_open.discard(descriptor)
            if len(written[descriptor]) > MOST_ANSWER_BYTES:
                raise NoVerdict("the verifier wrote more than it was asked for")
    output, errors = (bytes(each) for each in written.values())
    return output, errors
