"""The errors that licet raises, and the exit code that each one ends a command with.

Exit codes: 0 success, 1 failure, 2 usage, 3 the answer is no (a failed check or test).
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO = 3


class LicetError(Exception):
    """Base of all errors with a message for the operator: what is wrong, where, and what to do."""

    exit_code = EXIT_FAILED


class ConfigError(LicetError):
    """The agent's own configuration file is missing, unreadable or wrong."""

    exit_code = EXIT_USAGE


class PolicyError(LicetError):
    """One mistake in a policy file. `line` is 1-based; None means the file as a whole."""

    exit_code = EXIT_NO

    def __init__(self, *, path: str, line: int | None, reason: str, remedy: str = "") -> None:
        self.path = path
        self.line = line
        self.reason = reason
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.reason}" + (f" ({self.remedy})" if self.remedy else "")


MOST_SHOWN = 50
MOST_CHARACTERS = 500


def shown(messages: Sequence[object]) -> list[str]:
    """At most MOST_SHOWN lines: a policy of some kilobytes can cause megabytes of messages."""
    lines = [str(message) for message in messages[:MOST_SHOWN]]
    lines = [line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…" for line in lines]
    more = len(messages) - len(lines)
    return [*lines, f"… and {more:,} more: correct these first"] if more else lines


class PolicyErrors(LicetError):
    """All mistakes in a policy, in file and line order. The message has the first 50, then `hint`.
    `is_unread`: a policy file could not be read, whatever its content."""

    exit_code = EXIT_NO

    def __init__(self, errors: list[PolicyError], hint: str = "", *, is_unread: bool = False) -> None:
        self.errors = errors
        self.is_unread = is_unread
        super().__init__("\n".join([*shown(errors), *([hint] if hint else [])]))


class KernelError(LicetError):
    """The kernel refused something licet needs, or lacks it."""


class PinError(KernelError):
    """A pinned map or link is missing, or was made by another version of licet."""


class ModeError(LicetError):
    """A mode that cannot be set: there is no such target, or nothing to enforce."""

    exit_code = EXIT_USAGE


class AlreadyRunning(LicetError):
    """Another daemon holds this run directory."""

    def __init__(self, message: str, pid: int) -> None:
        """`pid`: the pid of that daemon; 0 if it is not known."""
        super().__init__(message)
        self.pid = pid


class DaemonUnreachable(LicetError):
    """No daemon answers on the control socket. `what` is the message without its remedy."""

    def __init__(self, what: str, remedy: str = "", *, hangs: bool = False) -> None:
        """`hangs`: a process has the socket open, but does not answer."""
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.hangs = hangs


class ControlError(LicetError):
    """The daemon answered a control request with an error."""

    def __init__(self, message: str, *, is_callers: bool = False) -> None:
        """`is_callers`: the request was wrong, not the daemon."""
        super().__init__(message)
        self.exit_code = EXIT_USAGE if is_callers else EXIT_FAILED


class MayNotAsk(ControlError):
    """This user may not open the control socket, whether or not a daemon listens there."""
