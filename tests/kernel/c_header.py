"""What a C header defines, read from its text; and what a compiler makes of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BPF = Path(__file__).resolve().parents[2] / "bpf"

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_ENUM = re.compile(r"\benum\s*(\w*)\s*\{([^}]*)\}")
_STRUCT = re.compile(r"^struct (\w+) \{(.*?)^\}", re.MULTILINE | re.DOTALL)
_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+\S", re.MULTILINE)  # no macros with arguments
_TYPE = re.compile(r"^(?:(?:const|volatile|unsigned|signed|struct|enum|union)\s+)*\w+")
_NAME = re.compile(r"^[\s*]*(\w+)")


@dataclass(frozen=True, slots=True)
class Header:
    enums: dict[str, tuple[str, ...]]
    """Enumerators in their order, by the enum's name; those without a name under ""."""
    structs: dict[str, tuple[str, ...]]
    """Fields in their order."""
    defines: tuple[str, ...]


def parse(text: str) -> Header:
    code = without_comments(text)
    enums: dict[str, tuple[str, ...]] = {}
    for match in _ENUM.finditer(code):
        enums[match[1]] = enums.get(match[1], ()) + tuple(_names(match[2].split(",")))
    return Header(
        enums=enums,
        structs={match[1]: tuple(_fields(match[2])) for match in _STRUCT.finditer(code)},
        defines=tuple(match[1] for match in _DEFINE.finditer(code)),
    )


def without_comments(text: str) -> str:
    return _COMMENT.sub(" ", text)


def _names(parts: Iterable[str]) -> Iterable[str]:
    return (match[1] for part in parts if (match := _NAME.match(part)))


def _fields(body: str) -> Iterable[str]:
    for declaration in body.split(";"):
        yield from _names(_TYPE.sub("", declaration.strip(), count=1).split(","))


def ask_compiler(expressions: Iterable[str], folder: Path) -> dict[str, int]:
    """The value of each expression, to a C compiler that has read abi.h."""
    asked = list(dict.fromkeys(expressions))
    lines = [f'printf("%lu\\n", (unsigned long)({expression}));' for expression in asked]
    program = folder / "abi.c"
    program.write_text(
        '#include "abi.h"\nint printf(const char *, ...);\nint main(void) {\n' + "\n".join(lines) + "\n}\n"
    )
    include = [f"-I{BPF}/include", f"-I{BPF}", "-D__always_inline=inline"]
    subprocess.run(["gcc", *include, "-o", folder / "abi", program], check=True)
    output = subprocess.run([folder / "abi"], capture_output=True, text=True, check=True).stdout
    return dict(zip(asked, map(int, output.split()), strict=True))
