"""Compiled programs before loading: instructions that refer to maps by name, and the shapes of these maps.
Standard library only."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agent.kernel.uapi import Op

ATTACH_TYPE_MARK = 0x6C1CE7A7
"""A placeholder constant in compiled code; for_hook() replaces it before a program is loaded (bpf/abi.h)."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """The arguments of BPF_MAP_CREATE."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key_type: int
    value_type: int
    """key_type and value_type are ids in the BTF of the compilation; 0: none."""


@dataclass(frozen=True, slots=True)
class Function:
    """One program: instructions that refer to maps by name instead of by descriptor."""

    instructions: bytes
    """8 bytes each."""
    references: tuple[tuple[int, str], ...]
    """(byte offset, map's name) of each place where a map's descriptor belongs, 4 bytes."""

    def naming(self, fd_of: Callable[[str], int]) -> bytes:
        """The instructions with each reference replaced by the descriptor of its map."""
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
    """Types of keys and values, in the form of BPF_BTF_LOAD; empty: none."""

    def to_json(self) -> str:
        functions = {
            name: {"instructions": _text(one.instructions), "references": one.references}
            for name, one in self.functions.items()
        }
        fields = {"compiler": self.compiler, "btf": _text(self.btf), "functions": functions}
        return json.dumps({**fields, "maps": {name: asdict(one) for name, one in self.maps.items()}})

    @classmethod
    def from_json(cls, text: str) -> Code:
        """Raises ValueError, KeyError or TypeError where `text` did not come from to_json()."""
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
    """Replace ATTACH_TYPE_MARK by the attach type. Code for other hooks is then dead, and the verifier
    removes it."""
    code = bytearray(instructions)
    for offset in range(0, len(code) - 8, 8):
        if code[offset] == Op.LOAD_64 and code[offset + 4 : offset + 16] == _MARK:
            code[offset + 4 : offset + 16] = _wide(attach_type)
    return bytes(code)


def _wide(value: int) -> bytes:
    """The bytes after opcode and registers of an instruction that loads 64 bits."""
    low, high = value.to_bytes(8, "little")[:4], value.to_bytes(8, "little")[4:]
    return low + bytes(4) + high


_MARK = _wide(ATTACH_TYPE_MARK)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
