"""Every few seconds a first violation of another user, by a program of his own: it has to be told."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.fixtures import processes
from tests.soak import world
from tests.soak.normal import Key
from tests.soak.told import Told
from tests.soak.world import World

EACH_S, WITHIN_S = 5.0, 10.0


@dataclass(slots=True)
class Firsts:
    """`step()` is called now and then."""

    world: World
    told: Told
    made: dict[int, float] = field(default_factory=dict)
    """When the user's attempt was over, by uid."""
    let_through: list[int] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)
    _next_s: float = 0.0

    def step(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + EACH_S
        uid = world.FIRST_UID + len(self.made)
        program = self.world.lab.directory / f"first-{uid}"
        shutil.copy2(self.world.connect_program, program)
        lab = self.world.lab
        place, address = (lab.container, lab.host.v4) if uid % 3 == 0 else (lab.host, "127.0.0.1")
        process = lab.run(place, [program, "tcp", address, str(world.FIRST)], uid=uid)
        refused = process.wait(30) == 1
        processes.end(process)
        self.made[uid] = time.monotonic()
        self.places["container" if place == lab.container else "loopback"] += 1
        if not refused:
            self.let_through.append(uid)
        program.unlink()

    def counts(self) -> Counter[Key]:
        return Counter({("first", origin, "denied"): count for origin, count in self.places.items()})

    def late(self) -> dict[int, float]:
        """Seconds until it was told, by uid, where that was more than WITHIN_S; inf: never."""
        taken = {uid: self.told.firsts.get(uid, float("inf")) - at_s for uid, at_s in self.made.items()}
        return {uid: seconds for uid, seconds in taken.items() if seconds > WITHIN_S}

    def slowest_s(self) -> float:
        return max(
            (self.told.firsts[uid] - at for uid, at in self.made.items() if uid in self.told.firsts),
            default=0.0,
        )
