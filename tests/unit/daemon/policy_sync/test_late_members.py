from __future__ import annotations

import pytest

from agent.daemon.policy_sync.late_members import MOST_GONE, MOST_STRANGERS, LateMembers, Layered
from agent.policy.tables.shape import MEMBER_UNSURE, Dimension

EXE, NETNS, CGROUP = Dimension.EXE, Dimension.NETNS, Dimension.CGROUP


def test_the_same_clauses_share_a_set_and_others_take_the_next_free_one() -> None:
    late = LateMembers()
    assert [late.add(EXE, value, clauses, 50) for value, clauses in ((1, 7), (2, 9), (3, 7))] == [50, 51, 50]
    assert late.members == {(EXE, 1): 50, (EXE, 2): 51, (EXE, 3): 50}


def test_of_executables_that_no_selector_takes_the_newest_stay() -> None:
    late = LateMembers()
    dropped = [old for exe in range(MOST_STRANGERS + 3) for old in late.stranger(exe)]
    assert dropped == [0, 1, 2]
    assert late.stranger(3) == [], "met again: now the newest"
    assert late.stranger(MOST_STRANGERS + 3) == [4]


def test_a_namespace_that_is_gone_is_let_go_of_once_many_others_are() -> None:
    late = LateMembers()
    cookies = range(MOST_GONE + 2)
    for cookie in cookies:
        late.add(NETNS, cookie, 0, 50)
    late.add(EXE, 77, 0, 50)
    assert late.namespaces(frozenset(cookies)) == []
    assert late.namespaces(frozenset(cookies) - {5}) == []
    assert late.namespaces(frozenset({5})) == [0], "5 is back; 0 is the first of those gone"


def test_what_came_late_counts_before_what_was_compiled() -> None:
    members = Layered({(EXE, 1): 51}, {(EXE, 1): 3, (EXE, 2): 4}, 60)
    assert dict(members) == {(EXE, 1): 51, (EXE, 2): 4}
    assert (len(members), members.get((EXE, 9))) == (2, None)
    with pytest.raises(KeyError):
        members[(EXE, 9)]


def test_a_reader_does_not_meet_a_set_that_came_after_his_tables() -> None:
    late = LateMembers()
    first_free = 50
    late.add(EXE, 1, 0b1, first_free)
    members = Layered(late.members, {(EXE, 2): 4}, first_free + len(late.sets))
    late.add(EXE, 2, 0b10, first_free)
    late.add(CGROUP, 3, 0b1, first_free, MEMBER_UNSURE)
    assert members[(EXE, 1)] == 50
    assert members[(EXE, 2)] == 4
    assert members[(CGROUP, 3)] == 50 | MEMBER_UNSURE, "a set he has"
