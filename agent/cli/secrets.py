"""What must not leave the host in a bug report, taken out of text."""

from __future__ import annotations

import re

LEFT_OUT = "[left out]"
_NAME = r"[\w-]*(?:passw(?:or)?d|passphrase|secret|token|credential|signature|private|api[_-]?key)[\w-]*"
_VALUE = r"""(?:"[^"\n]*"|'[^'\n]*'|[^\s,}\]"']+)"""
_STRING = r'"(?:[^"\\]|\\.)*"'
_PATTERNS = (
    # arguments of a process in an event: passwords are handed over there
    (re.compile(rf'("args":\s*\[)\s*{_STRING}(?:\s*,\s*{_STRING})*\s*\]'), rf'\1"{LEFT_OUT}"]'),
    (re.compile(r"-----BEGIN ([A-Z ]*)-----.*?-----END \1-----", re.DOTALL), LEFT_OUT),
    # name: value, "name": "value", name=value, --name value
    (re.compile(rf"""(?i)(--{_NAME}[ =]|\b{_NAME}["']?\s*[:=]\s*){_VALUE}"""), rf"\1{LEFT_OUT}"),
    (re.compile(r"(?i)(authorization:\s*)[^\n\"']+"), rf"\1{LEFT_OUT}"),
    (re.compile(r"://[^/\s@\"']+@"), f"://{LEFT_OUT}@"),
)


def without_secrets(text: str) -> str:
    """Without arguments of processes, key material, the values of names that speak of secrets, and users and
    passwords in addresses."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
