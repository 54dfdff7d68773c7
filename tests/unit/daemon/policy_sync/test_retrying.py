from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.policy_sync.retrying import FIRST_S, MOST_S, ReloadRetry


@dataclass
class Keeper:
    last_error: str = ""
    failed_at_host: bool = False


@dataclass
class Documents:
    no_verdict: str = ""


@dataclass
class World:
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self.keeper = Keeper()
        self.documents = Documents()
        self.retry = ReloadRetry(self.keeper, self.documents, lambda: self.now_s)

    def reload(self, error: str = "", *, at_host: bool = True) -> None:
        self.keeper.last_error, self.keeper.failed_at_host = error, at_host
        self.retry.reloaded()

    def waits_s(self) -> float:
        began_s = self.now_s
        while not self.retry.is_due():
            self.now_s += 1
        return self.now_s - began_s


def test_what_failed_at_the_host_is_tried_again_ever_more_seldom() -> None:
    world, waits = World(), []
    for _ in range(9):
        world.reload("too many open files")
        waits.append(world.waits_s())
        assert not world.retry.is_due()
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits[-1] == MOST_S
    assert "too many open files" in world.retry.problem


def test_after_one_that_succeeded_the_next_failure_is_a_first_one() -> None:
    world = World()
    world.reload("no")
    world.reload("no")
    world.reload()
    assert (world.retry.problem, world.retry.is_due()) == ("", False)
    world.reload("no")
    assert world.waits_s() == FIRST_S


def test_files_that_are_wrong_wait_for_whoever_corrects_them() -> None:
    world = World()
    world.reload("no")
    world.reload("policy.yaml:3: nonsense", at_host=False)
    world.now_s += MOST_S * 2
    assert (world.retry.problem, world.retry.is_due()) == ("", False)


def test_a_reload_is_repeated_until_there_is_a_verdict_about_each_signature() -> None:
    world, waits = World(), []
    world.documents.no_verdict = "killed"
    for _ in range(3):
        world.reload()
        waits.append(world.waits_s())
    assert waits == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert world.retry.problem == ""  # the policy's files are in force
    world.documents.no_verdict = ""
    world.reload()
    assert not world.retry.is_due()
