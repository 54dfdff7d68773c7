"""Asking about signatures: a document that nobody signed keeps no other one from its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.daemon.licensing.verifier import LONGEST_S, MOST_AT_ONCE, Verifier
from agent.license.verification import Check, NoVerdict
from tests.fixtures.vendor import Vendor, VendorKey
from tests.unit.daemon.licensing.world import TIMES, InProcess, World, states

CHECKS = [Check(b"k" * 32, b"m", number.to_bytes(64, "big")) for number in range(3 * MOST_AT_ONCE)]


class Slow:
    """Answers yes, and takes `s` for each time that it is asked."""

    def __init__(self, s: float, fails_from: int = 99) -> None:
        self.now_s, self.s, self.asked, self.fails_from = 0.0, s, 0, fails_from

    def __call__(self, checks: Sequence[Check]) -> list[bool]:
        self.asked += 1
        if self.asked >= self.fails_from:
            raise NoVerdict("killed")
        self.now_s += self.s
        return [True] * len(checks)

    def clock(self) -> float:
        return self.now_s


class Once(InProcess):
    """Gives no verdict from the second time on."""

    def __call__(self, checks: Sequence[Check]) -> list[bool]:
        self.fails = self.asked > 0
        return super().__call__(checks)


def test_what_was_answered_before_a_failure_stays_known() -> None:
    slow = Slow(0, fails_from=3)
    verifier = Verifier(slow, slow.clock)
    found = verifier.verdicts(CHECKS)
    assert [found.count(verdict) for verdict in (True, None)] == [2 * MOST_AT_ONCE, MOST_AT_ONCE]
    assert "killed" in verifier.problem
    slow.fails_from = 99
    assert verifier.verdicts(CHECKS) == [True] * len(CHECKS)
    assert (slow.asked, verifier.problem) == (4, "")


def test_what_takes_too_long_is_asked_the_next_time() -> None:
    slow = Slow(LONGEST_S + 1)
    verifier = Verifier(slow, slow.clock)
    assert verifier.verdicts(CHECKS).count(True) == MOST_AT_ONCE
    assert verifier.problem
    verifier.verdicts(CHECKS)
    assert verifier.verdicts(CHECKS) == [True] * len(CHECKS)
    assert verifier.problem == ""


def test_many_bad_signatures_in_earlier_files_keep_no_document_from_its_verdict(tmp_path: Path) -> None:
    world = World(tmp_path, Vendor(keys=[VendorKey(number) for number in range(1, 9)]))
    for key in world.vendor.keys:
        world.vendor.pin(world.keys, key)
    strangers = [VendorKey(number) for number in range(100, 108)]
    for number in range(40):
        payload = world.vendor.license(**TIMES, id=f"x{number}")
        world.write(f"{number:03}.json", world.vendor.sign(payload, *strangers))
    world.put("z.json", world.vendor.keys[-1])
    world.verify = Once()
    keeper = world.start()
    assert states(keeper)["z.json"] == "valid"
    assert keeper.problem
