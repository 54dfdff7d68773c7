"""Questions that may never be answered, where whoever is asked about sees to that: each in a thread that is
left alone after a while. Whoever asks goes on without an answer."""

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
"""Threads that wait at once. More than these are not asked for anything."""
_SHOWN = 3


class Unanswered(TimeoutError):
    """There is no answer yet; or, where not `is_asked`, none to an earlier question about the same."""

    def __init__(self, about: str, *, is_asked: bool) -> None:
        self.is_asked = is_asked
        super().__init__(f"{about}: no answer")


class Patience:
    """Safe to ask from several threads. A thread that has been answered is kept for the next question."""

    def __init__(self, wait_s: float = WAIT_S, most_waiting: int = MOST_WAITING) -> None:
        self._wait_s = wait_s
        self._most = most_waiting
        self._lock = threading.Lock()
        self._idle: list[_Asker] = []
        self._unanswered: set[str] = set()
        weakref.finalize(self, _end, self._idle)

    @property
    def unanswered(self) -> frozenset[str]:
        """About whom there is no answer now."""
        with self._lock:
            return frozenset(self._unanswered)

    @property
    def trouble(self) -> str:
        """In a sentence; "": all have answered."""
        waiting = sorted(self.unanswered)
        if not waiting:
            return ""
        more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
        return (
            f"no answer to what was asked of {', '.join(waiting[:_SHOWN])}{more}: the rest goes on without; "
            "see whether a file system there (FUSE, NFS) hangs"
        )

    def ask(self, about: str, work: Callable[[], T], wait_s: float | None = None) -> T:
        """What `work` returns, and what it raises. Raises Unanswered, at once while an earlier question about
        the same waits."""
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
        """None: nobody will ask any more."""
        # a daemon thread: the end of the program does not wait for it
        threading.Thread(target=self._run, name="licet-ask", daemon=True).start()

    def _run(self) -> None:
        while asked := self.todo.get():
            work, answer = asked
            try:
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001  whoever asked gets it
                answer.set_exception(error)
            del asked, work, answer


def _end(idle: list[_Asker]) -> None:
    """Their threads go with whoever asked."""
    for asker in idle:
        asker.todo.put(None)
