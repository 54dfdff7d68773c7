"""Of who tries again and again to take a port of others, one report a minute, and no attempt is lost."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from agent.daemon.tracking.refused_binds import REMEMBERED, REPORTED_EACH_S, RefusedBinds
from agent.model import Process, Protocol

NGINX = Process(pid=9, exe="/usr/sbin/nginx", uid=33, cgroup_id=4)


def test_the_first_is_reported_and_those_of_a_minute_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, binds = [1000.0], RefusedBinds()
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    assert [binds.met(NGINX, Protocol.TCP, 80) for _ in range(4)] == [1, 0, 0, 0]
    now_s[0] += REPORTED_EACH_S
    assert binds.met(NGINX, Protocol.TCP, 80) == 4
    now_s[0] += REPORTED_EACH_S
    assert binds.met(NGINX, Protocol.TCP, 80) == 1


def test_others_and_other_ports_are_reported_by_themselves() -> None:
    binds = RefusedBinds()
    assert binds.met(NGINX, Protocol.TCP, 80) == 1
    assert binds.met(replace(NGINX, pid=10), Protocol.TCP, 80) == 0, "a service that was started again"
    assert binds.met(NGINX, Protocol.UDP, 80) == 1
    assert binds.met(NGINX, Protocol.TCP, 81) == 1
    assert binds.met(replace(NGINX, uid=34), Protocol.TCP, 80) == 1


def test_executables_without_end_do_not_make_it_grow() -> None:
    binds = RefusedBinds()
    for number in range(3 * REMEMBERED):
        binds.met(replace(NGINX, exe=f"/tmp/{number}"), Protocol.TCP, 80)
    assert len(binds._met) <= REMEMBERED
