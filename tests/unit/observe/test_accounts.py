"""Members of groups and subordinate uids, as a host's own files say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.observe.accounts import Accounts
from agent.observe.hostfacts import Mentions, account_facts

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
eve:x:81605:81606::/home/eve:/bin/sh
evelyn:x:81605:81606::/home/eve:/bin/sh
bob:x:81002:81002::/:/bin/sh
broken:x:many:81606
short:x
"""
GROUP = """\
contractors:x:81606:bob,gone,
other:x:81607:eve
contractors2:x:81606:eve
nobodys:x:81608:
short:x:81609
"""
SUBUID = """\
eve:165536:65536
81605:300000:10

evelyn:400000:1
bob:231072:65536
gone:500000:5
eve:none:5
eve:600000:0
eve:700000:-5
eve:700000
eve:4294967290:100
eve:4294967295:1
"""
EVES = (
    range(165536, 231072),
    range(300000, 300010),
    range(400000, 400001),
    range(4294967290, 4294967295),
)
BOBS = (range(231072, 296608),)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for name, text in (("passwd", PASSWD), ("group", GROUP), ("subuid", SUBUID)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_member_is_listed_or_has_the_group_as_his_primary_one(etc: Path) -> None:
    accounts = Accounts(etc)
    assert accounts.members([81606]) == {81606: {81605, 81002}}
    assert accounts.members([81607, 81608]) == {81607: {81605}, 81608: frozenset()}
    assert accounts.members([81002]) == {81002: {81002}}
    assert accounts.members([]) == {}


def test_a_line_means_a_user_by_name_by_number_or_by_another_name_of_his(etc: Path) -> None:
    assert Accounts(etc).subordinates([81605, 81002, 81007]) == {81605: EVES, 81002: BOBS}
    assert Accounts(etc).subordinates([]) == {}


def test_names_that_stand_in_no_file_are_asked_of_the_name_service(tmp_path: Path) -> None:
    """root, whom every host has, with files that know nobody."""
    (tmp_path / "subuid").write_text("root:100000:5\n")
    (tmp_path / "group").write_text("contractors:x:81606:root\n")
    assert Accounts(tmp_path).subordinates([0]) == {0: (range(100000, 100005),)}
    assert Accounts(tmp_path).members([81606]) == {81606: {0}}


def test_the_name_service_is_asked_once_a_minute(tmp_path: Path) -> None:
    (tmp_path / "group").write_text("contractors:x:81606:eve,ghost\n")
    asked, now = [], [0.0]
    uids = {"eve": 81605}

    def ask(name: str) -> int | None:
        asked.append(name)
        return uids.get(name)

    accounts = Accounts(tmp_path, ask, clock=lambda: now[0])
    assert accounts.members([81606]) == accounts.members([81606]) == {81606: {81605}}
    assert sorted(asked) == ["eve", "ghost"]
    uids["ghost"] = 81700
    now[0] = 61.0
    assert accounts.members([81606]) == {81606: {81605, 81700}}


def test_a_host_without_the_files_has_no_such_ids(tmp_path: Path) -> None:
    assert Accounts(tmp_path).subordinates([81605]) == {}
    assert Accounts(tmp_path).members([81606]) == {81606: frozenset()}


def test_a_file_is_read_again_when_it_was_changed_replaced_or_removed(etc: Path) -> None:
    accounts, subuid = Accounts(etc), etc / "subuid"
    assert accounts.subordinates([81002]) == {81002: BOBS}
    subuid.write_text("bob:1:2\n")
    assert accounts.subordinates([81002]) == {81002: (range(1, 3),)}
    written = subuid.stat()
    (etc / "new").write_text("bob:5:2\n")
    os.utime(etc / "new", ns=(written.st_atime_ns, written.st_mtime_ns))
    (etc / "new").rename(subuid)
    assert accounts.subordinates([81002]) == {81002: (range(5, 7),)}
    subuid.unlink()
    assert accounts.subordinates([81002]) == {}


def test_facts_are_of_whom_the_policy_excludes(etc: Path) -> None:
    excluded = Mentions(excluded_users=frozenset({81605}), excluded_groups=frozenset({81002, "ghosts"}))
    facts = account_facts(excluded, Accounts(etc))
    assert facts["members"] == {81002: {81002}}
    assert facts["subordinates"] == {81605: EVES, 81002: BOBS}
    assert account_facts(Mentions(), Accounts(etc))["subordinates"] == {}
