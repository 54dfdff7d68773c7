"""The current network namespaces of services that live in containers."""

from __future__ import annotations

from agent.model import HostFacts
from agent.policy.values import Service


def container_homes(service: Service, facts: HostFacts) -> list[int]:
    """The network namespaces of the containers that a service is at."""
    if not service.at_containers:
        return []
    found = {
        facts.container_netns[path]
        for path, container in facts.containers.items()
        if path in facts.container_netns
        and container.known
        and any(selector.takes(container) for selector in service.at_containers)
    }
    return sorted(found)
