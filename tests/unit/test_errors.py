"""What is told of a policy that is wrong in many places."""

from __future__ import annotations

import pytest

from agent.errors import MOST_SHOWN, PolicyErrors
from agent.policy.document.load import parse_policy


def test_a_policy_that_is_wrong_everywhere_is_told_in_a_few_kilobytes() -> None:
    names = "".join(f"  s{number}: {{product: x, at: [{'y' * 300}], ports: *p}}\n" for number in range(900))
    text = f"version: 1\nprincipals:\n  a: &p [{{exe: {'z' * 3000}}}]\nservices:\n{names}"
    with pytest.raises(PolicyErrors) as caught:
        parse_policy(text)
    assert len(caught.value.errors) > 900
    told = str(caught.value)
    assert len(told) < MOST_SHOWN * 520
    assert (
        told.splitlines()[-1] == f"… and {len(caught.value.errors) - MOST_SHOWN:,} more: correct these first"
    )
    assert len(told.splitlines()) == MOST_SHOWN + 1
