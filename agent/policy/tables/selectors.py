"""Every selector of a policy, with its name in messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.policy.values import Principal, Selector, Service


def named_selectors(
    principals: Iterable[Principal], services: Iterable[Service]
) -> Iterator[tuple[str, Selector]]:
    """Every selector, with the words by which a finding names its place."""
    for principal in principals:
        for selector in principal.selectors:
            yield f"principal '{principal.name}'", selector
    for service in services:
        for selector in service.owner:
            yield f"service '{service.name}', owner", selector
