"""Removes secrets from text that goes into a bug report."""

from __future__ import annotations

import re

LEFT_OUT = "[left out]"
_NAME = r"[\w-]*(?:passw(?:or)?d|passphrase|secret|token|credential|signature|private|api[_-]?key)[\w-]*"
_VALUE = r"""(?:"[^"\n]*"|'[^'\n]*'|[^\s,}\]"']+)"""
_STRING = r'"(?:[^"\\]|\\.)*"'
_PATTERNS = (
    # arguments of a process in an event: they may hold passwords
    (re.compile(rf'("args":\s*\[)\s*{_STRING}(?:\s*,\s*{_STRING})*\s*\]'), rf'\1"{LEFT_OUT}"]'),
    (re.compile(r"-----BEGIN ([A-Z ]*)-----.*?-----END \1-----", re.DOTALL), LEFT_OUT),
    # name: value, "name": "value", name=value, --name value
    (re.compile(rf"""(?i)(--{_NAME}[ =]|\b{_NAME}["']?\s*[:=]\s*){_VALUE}"""), rf"\1{LEFT_OUT}"),
    (re.compile(r"(?i)(authorization:\s*)[^\n\"']+"), rf"\1{LEFT_OUT}"),
    (re.compile(r"://[^/\s@\"']+@"), f"://{LEFT_OUT}@"),
)


def without_secrets(text: str) -> str:
    """The text without arguments of processes, key material, values whose names suggest secrets, and users
    and passwords in URLs."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
