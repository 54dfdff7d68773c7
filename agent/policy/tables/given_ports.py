"""Declared ports that the kernel may assign to any process. bind() to port 0 and listen() without bind() are
never refused. So a service that names its owners should have a port outside that range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.model import EphemeralPorts, HostFacts
from agent.policy.values import Finding, Policy, Port, Service


def given_ports(policy: Policy, facts: HostFacts) -> Iterator[Finding]:
    """Warnings for services in this host's network namespace. A container has a range of its own."""
    given = facts.ephemeral
    for service in policy.services.values():
        if not service.owner or service.at_containers:
            continue
        for port in service.ports:
            inside = [number for number in range(port.first, port.last + 1) if given.gives(number)]
            if inside:
                yield _finding(service, port, inside, given)


def _finding(service: Service, port: Port, inside: Sequence[int], given: EphemeralPorts) -> Finding:
    ports = str(inside[0]) if len(inside) == 1 else f"{inside[0]}-{inside[-1]}"
    return Finding(
        port.place,
        f"service '{service.name}': the kernel may assign port {ports} to a process that binds to no port "
        f"(ip_local_port_range is {given.first} to {given.last}), even while its owner does not run",
        f"add {ports} to net.ipv4.ip_local_reserved_ports (sysctl), or choose a port outside the range",
    )
