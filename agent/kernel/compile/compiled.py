"""Compiled programs before they are in the kernel: instructions in which maps have names, and what the maps
are like. Standard library only."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agent.kernel.uapi import Op

ATTACH_TYPE_MARK = 0x6C1CE7A7
"""A constant that the compiler takes as it is, and that a program is not loaded with (bpf/abi.h)."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What BPF_MAP_CREATE is told."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key_type: int
    value_type: int
    """Ids in the BTF of the compilation; 0: none."""


@dataclass(frozen=True, slots=True)
class Function:
    """One program: instructions in which maps have names in place of descriptors."""

    instructions: bytes
    """8 bytes each."""
    references: tuple[tuple[int, str], ...]
    """(byte offset, map's name): where the descriptor of a map belongs, 4 bytes."""

    def naming(self, fd_of: Callable[[str], int]) -> bytes:
        """The instructions with the descriptor of a map at each reference to it."""
        code = bytearray(self.instructions)
        for offset, name in self.references:
            code[offset : offset + 4] = fd_of(name).to_bytes(4, "little")
        return bytes(code)


@dataclass(frozen=True, slots=True)
class Code:
    """One compilation."""

    compiler: str
    """Version of bcc."""
    maps: dict[str, MapSpec]
    functions: dict[str, Function]
    btf: bytes
    """Types of keys and values, as BPF_BTF_LOAD takes them; empty: none."""

    def to_json(self) -> str:
        functions = {
            name: {"instructions": _text(one.instructions), "references": one.references}
            for name, one in self.functions.items()
        }
        fields = {"compiler": self.compiler, "btf": _text(self.btf), "functions": functions}
        return json.dumps({**fields, "maps": {name: asdict(one) for name, one in self.maps.items()}})

    @classmethod
    def from_json(cls, text: str) -> Code:
        """Raises ValueError, KeyError or TypeError where this is no text of to_json()."""
        fields: dict[str, Any] = json.loads(text)
        return cls(
            compiler=fields["compiler"],
            maps={name: MapSpec(**one) for name, one in fields["maps"].items()},
            functions={
                name: Function(
                    base64.b64decode(one["instructions"]),
                    tuple((offset, of) for offset, of in one["references"]),
                )
                for name, one in fields["functions"].items()
            },
            btf=base64.b64decode(fields["btf"]),
        )


def for_hook(instructions: bytes, attach_type: int) -> bytes:
    """With the attach type where the code asks for it: what is for other hooks is dead code then, which the
    verifier takes out."""
    code = bytearray(instructions)
    for offset in range(0, len(code) - 8, 8):
        if code[offset] == Op.LOAD_64 and code[offset + 4 : offset + 16] == _MARK:
            code[offset + 4 : offset + 16] = _wide(attach_type)
    return bytes(code)


def _wide(value: int) -> bytes:
    """What is behind opcode and registers of an instruction that loads 64 bits."""
    low, high = value.to_bytes(8, "little")[:4], value.to_bytes(8, "little")[4:]
    return low + bytes(4) + high


_MARK = _wide(ATTACH_TYPE_MARK)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
