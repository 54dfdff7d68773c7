"""Runs calls that may block for ever, because a user can cause that. Each call runs in its own thread with
a timeout. After the timeout the thread is abandoned, and the caller continues without a result."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
WAIT_S = 0.5
MOST_WAITING = 32
"""The most threads that wait at once. Beyond that, calls fail at once."""
_SHOWN = 3


class Unanswered(TimeoutError):
    """The call did not return in time. `is_asked` is False if it was not started, because an earlier call
    about the same still waits."""

    def __init__(self, about: str, *, is_asked: bool) -> None:
        self.is_asked = is_asked
        super().__init__(f"{about}: no answer")


class Patience:
    """Thread-safe. A thread whose call has returned is reused."""

    def __init__(self, wait_s: float = WAIT_S, most_waiting: int = MOST_WAITING) -> None:
        self._wait_s = wait_s
        self._most = most_waiting
        self._lock = threading.Lock()
        self._idle: list[_Asker] = []
        self._unanswered: set[str] = set()
        weakref.finalize(self, _end, self._idle)

    @property
    def unanswered(self) -> frozenset[str]:
        """The subjects of calls that have not returned."""
        with self._lock:
            return frozenset(self._unanswered)

    @property
    def problem(self) -> str:
        """One sentence about the calls that have not returned; "": all have."""
        waiting = sorted(self.unanswered)
        if not waiting:
            return ""
        more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
        return (
            f"no answer when reading {', '.join(waiting[:_SHOWN])}{more}; licet continues without it: "
            "check whether a file system there (FUSE, NFS) hangs"
        )

    def ask(self, about: str, work: Callable[[], T], wait_s: float | None = None) -> T:
        """Run `work`, and return its result or raise its exception. Raises Unanswered after the timeout,
        or at once while an earlier call about the same waits."""
        with self._lock:
            if about in self._unanswered or len(self._unanswered) >= self._most:
                raise Unanswered(about, is_asked=False)
            asker = self._idle.pop() if self._idle else _Asker()
        answer: Future[T] = Future()
        asker.todo.put((work, answer))
        try:
            answer.exception(wait_s or self._wait_s)
        except TimeoutError:
            with self._lock:
                self._unanswered.add(about)
            answer.add_done_callback(lambda _: self._answered(about, asker))
            raise Unanswered(about, is_asked=True) from None
        self._rest(asker)
        return answer.result()

    def _answered(self, about: str, asker: _Asker) -> None:
        with self._lock:
            self._unanswered.discard(about)
        self._rest(asker)

    def _rest(self, asker: _Asker) -> None:
        with self._lock:
            self._idle.append(asker)


class _Asker:
    def __init__(self) -> None:
        self.todo: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        """None: the thread must end."""
        # a daemon thread: the process does not wait for it at exit
        threading.Thread(target=self._run, name="licet-ask", daemon=True).start()

    def _run(self) -> None:
        while asked := self.todo.get():
            work, answer = asked
            try:
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001 the caller gets it
                answer.set_exception(error)
            del asked, work, answer


def _end(idle: list[_Asker]) -> None:
    """End the idle threads of a Patience that was garbage-collected."""
    for asker in idle:
        asker.todo.put(None)
