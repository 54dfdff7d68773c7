from __future__ import annotations

from agent import abi
from agent.kernel.tables.counters import Counters
from tests.unit.kernel.memory_map import MemoryMap


class MemoryPins:
    def __init__(self) -> None:
        self.maps: dict[str, MemoryMap] = {}

    def open_map(self, name: str) -> MemoryMap:
        return self.maps.setdefault(name, MemoryMap(name))


def test_refusals_are_summed_over_cpus_for_each_gate_of_each_target() -> None:
    pins = MemoryPins()
    counters = Counters(pins)  # type: ignore[arg-type]
    for index, values in {4 * 2 + 0: (3, 4), 4 * 2 + 3: (0, 1), 4 * 3 + 1: (9, 0)}.items():
        pins.maps["refused"].put(abi.U32.pack(index), b"".join(map(abi.U64.pack, values)))
    assert counters.refusals([2, 5]) == {(2, "connect"): 7, (2, "bind"): 1}
    assert counters.refusals([]) == {}
    assert counters.modes is pins.maps["modes"]
