"""Loads the maps and programs of one compilation into the kernel. Standard library only."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from agent.errors import KernelError, PinError
from agent.kernel.compile.compiled import Code, MapSpec, for_hook
from agent.kernel.pins import PINNED_MAPS, Pins
from agent.kernel.uapi import MapType
from agent.system import bpf_map, libbpf
from agent.system.btf import load_btf

Program = tuple[str, int, int, str]
"""C function, program type, attach type, name."""

_END_OF_LOG = 4096
_SHAPE = ("type", "key_size", "value_size", "max_entries")


class Programs:
    """Creates each map on first use, except pinned ones adopted by `take_over_maps()`. Thread-safe after that
    call."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._fds: dict[str, int] = {}
        self._making = threading.RLock()
        self._btf_fd = 0

    def close(self) -> None:
        """Close the maps' fds. Maps that are pinned, or that loaded programs use, stay in the kernel."""
        for fd in (*self._fds.values(), *filter(None, [self._btf_fd])):
            os.close(fd)
        self._fds, self._btf_fd = {}, 0

    @property
    def compiler(self) -> str:
        return self._code.compiler

    @property
    def code(self) -> Code:
        return self._code

    def use(self, name: str, fd: int) -> None:
        """Use an existing map as `name`. The shape is not compared: the caller has done so."""
        self._fds[name] = fd

    def take_over_maps(self, pins: Pins) -> list[str]:
        """Adopt the pinned maps; the names of maps not pinned yet. Raises PinError where a map's shape
        differs."""
        left = []
        for name in PINNED_MAPS:
            try:
                pinned = libbpf.open_pin(pins.map(name))
            except FileNotFoundError:
                left.append(name)
                continue
            have, want = bpf_map.map_info(pinned), self._code.maps[name]
            for attribute in _SHAPE:
                if getattr(have, attribute) != getattr(want, attribute):
                    raise PinError(
                        f"{pins.map(name)}: pinned by another version of licet: its {attribute} is "
                        f"{getattr(have, attribute)}, this one's is {getattr(want, attribute)}; "
                        "run `licet unload` first (counters restart at 0)"
                    )
            self._fds[name] = pinned
        return left

    def map_fd(self, name: str) -> int:
        with self._making:
            if name not in self._fds:
                self._fds[name] = self._make(name, self._code.maps[name])
            return self._fds[name]

    def load(
        self, function: str, program_type: int, attach_type: int = 0, name: str = "", attach_btf_id: int = 0
    ) -> int:
        """The fd of the loaded program. Raises KernelError; the verifier's log is then on stderr."""
        found = self._code.functions[function]
        code = for_hook(found.naming(self.map_fd), attach_type)
        try:
            return libbpf.load_program(name or function, program_type, code, attach_type, attach_btf_id)
        except OSError as error:
            with contextlib.suppress(OSError):
                said = libbpf.verifier_log(program_type, code, attach_type, attach_btf_id)
                print(said[-_END_OF_LOG:], file=sys.stderr)
            raise KernelError(
                f"the kernel refused program {function}: {os.strerror(error.errno or 0)}"
            ) from error

    def _make(self, name: str, spec: MapSpec) -> int:
        of_maps = spec.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
        return bpf_map.map_create(
            spec.type,
            name,
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            spec.flags,
            inner=self.map_fd(f"{name}_inner") if of_maps else 0,  # the name in maps.h
            btf=(self._btf(), spec.key_type, spec.value_type) if spec.value_type else (0, 0, 0),
        )

    def _btf(self) -> int:
        self._btf_fd = self._btf_fd or load_btf(self._code.btf)
        return self._btf_fd
