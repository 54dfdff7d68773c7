from __future__ import annotations

import threading

import pytest

from agent.observe.patience import Patience, Unanswered
from tests.fixtures.waiting import wait_for

WAIT_S = 0.05


def raising() -> None:
    raise TimeoutError("its own")


def test_an_answer_is_what_the_work_returns_or_raises() -> None:
    patience = Patience()
    assert patience.ask("it", lambda: 7) == 7
    with pytest.raises(TimeoutError, match="its own"):
        patience.ask("it", raising)
    assert not patience.unanswered


def test_who_does_not_answer_is_not_asked_again_until_he_does() -> None:
    patience, answers, asked = Patience(WAIT_S), threading.Event(), []
    with pytest.raises(Unanswered) as first:
        patience.ask("he", answers.wait)
    with pytest.raises(Unanswered) as second:
        patience.ask("he", lambda: asked.append(1))
    assert (first.value.is_asked, second.value.is_asked, asked) == (True, False, [])
    assert patience.ask("another", lambda: 7) == 7
    answers.set()
    wait_for(lambda: not patience.unanswered, "he has answered")
    assert patience.ask("he", lambda: 8) == 8


def test_at_most_so_many_wait_at_once() -> None:
    patience, answers = Patience(WAIT_S, most_waiting=2), threading.Event()
    for one in range(3):
        with pytest.raises(Unanswered):
            patience.ask(str(one), answers.wait)
    assert patience.unanswered == {"0", "1"}
    answers.set()


def test_threads_are_kept_for_the_next_question() -> None:
    patience = Patience()
    assert len({patience.ask("it", threading.get_ident) for _ in range(20)}) == 1


def test_its_threads_end_with_it() -> None:
    patience = Patience()
    asker = patience.ask("it", threading.current_thread)
    del patience
    asker.join(10)
    assert not asker.is_alive()
