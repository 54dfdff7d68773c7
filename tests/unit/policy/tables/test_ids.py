"""Numbers of targets and grants: stable, never given twice, the same after a restart."""

from __future__ import annotations

import json
import sys
import threading

import pytest

from agent.errors import LicetError
from agent.model import PortClass, Target
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import MAX_TARGETS

DB = Target("db", PortClass.INTERNAL)
WEB = Target("web", PortClass.PUBLIC)


def test_a_number_is_never_given_to_another_name() -> None:
    ids = Ids()
    assert (ids.target(DB), ids.target(WEB), ids.target(DB)) == (1, 2, 1)
    assert (ids.grant("a/b/c@db/internal"), ids.grant("x")) == (1, 2)
    assert ids.target_named(2) == WEB
    assert ids.target_named(3) is None


def test_a_target_that_the_kernel_could_not_count_is_refused() -> None:
    """Arrays of the kernel end there: it would be judged, and neither counted nor switched."""
    ids = Ids()
    numbers = [ids.target(Target(f"s{number}", PortClass.ADMIN)) for number in range(MAX_TARGETS)]
    assert numbers[-1] == MAX_TARGETS
    with pytest.raises(LicetError, match="none is reused"):
        ids.target(DB)
    assert DB not in ids.targets.values()
    assert ids.target(Target("s0", PortClass.ADMIN)) == 1


def test_numbers_survive_being_stored() -> None:
    ids = Ids()
    ids.target(DB)
    ids.grant("x")
    again = Ids.from_json(json.loads(json.dumps(ids.to_json())))
    assert again.target(WEB) == 2
    assert again.target(DB) == 1
    assert again.grant("y") == 2


def test_readers_are_not_disturbed_while_a_policy_is_compiled() -> None:
    """/v1/status reads names in one thread while another compiles and adds some."""
    ids, failures, interval = Ids(), [], sys.getswitchinterval()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                assert all(isinstance(target, Target) for target in ids.targets.values())
            except RuntimeError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for number in range(MAX_TARGETS):
            ids.target(Target(f"service-{number}", PortClass.ADMIN))
    finally:
        sys.setswitchinterval(interval)
        done.set()
        reader.join()
    assert failures == []
