"""Key files: one pinned key in YAML, with the line of each mistake."""

from __future__ import annotations

from agent.license.keys import key_from
from agent.license.values import Malformed, PinnedKey
from agent.policy.document.yamltext import Unreadable, parse_content
from agent.policy.findings import policy_errors
from agent.policy.values import Finding


def read_key(content: bytes, name: str) -> PinnedKey:
    """The key of a file that was read already. Raises PolicyErrors, in which `name` stands for the file."""
    try:
        text = parse_content(content, name)
    except Unreadable as error:
        raise policy_errors(error.findings) from error
    try:
        return key_from(text.data)
    except Malformed as error:
        raise policy_errors([Finding(text.place(error.location), error.reason, error.remedy)]) from error
