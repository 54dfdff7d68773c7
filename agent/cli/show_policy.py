"""Shows a policy as licet reads it, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agent.model import Target, show_network, show_time
from agent.policy.decision.listeners import listening_scope
from agent.policy.tables.grants import PlannedGrant, planned_grants
from agent.policy.terms.container_selector import ContainerSelector
from agent.policy.validity import described
from agent.policy.values import License, Policy, Port, Principal, Selector, Service, Window


def policy_json(policy: Policy) -> dict[str, Any]:
    """The policy, JSON-ready. Times are RFC 3339, networks are CIDRs, places are file:line."""
    return {
        "files": list(policy.files),
        "sha256": policy.sha256,
        "services": {name: _service(service) for name, service in policy.services.items()},
        "principals": {name: _principal(principal) for name, principal in policy.principals.items()},
        "licenses": [_license(license_) for license_ in policy.licenses],
        "restrictions": [
            {
                "exclude": each.principal,
                "service": each.service,
                "class": each.port_class.value if each.port_class else None,
                "place": str(each.place),
            }
            for each in policy.exclusions
        ],
        "undeclared_listeners": policy.undeclared_listeners.value,
        "grants": [
            {
                "service": target.service,
                "class": target.port_class.value,
                "license": plan.license.id,
                "kind": _kind(plan.license),
                "entitlement": plan.entitlement.id,
                "principal": plan.principal,
                **_window(plan.window),
                "place": str(plan.entitlement.place),
            }
            for target, planned in _grants(policy).items()
            for plan in planned
        ],
        "warnings": [str(warning) for warning in policy.warnings],
    }


def policy_text(policy: Policy) -> str:
    """Which principals may use each target, as text."""
    lines = [f"files: {', '.join(policy.files)}", f"undeclared listeners: {policy.undeclared_listeners}"]
    for target, planned in _grants(policy).items():
        service = policy.services[target.service]
        ports = ", ".join(str(port) for port in service.ports if port.port_class is target.port_class)
        lines.append(f"{target}: {ports}, product {service.product} ({service.place})")
        lines.extend(
            f"  never {exclusion.principal} ({exclusion.place})"
            for exclusion in policy.exclusions
            if exclusion.covers(target)
        )
        for plan in planned:
            license_ = plan.license
            doubt = f", {license_.state.name.lower()}" if license_.state else ""
            name = f"{license_.id}/{plan.entitlement.id}{described(license_).removeprefix(license_.id)}"
            rule = f"{name}{doubt}, {_ends(plan.window)}"
            lines.append(f"  {plan.principal}: {rule} ({plan.entitlement.place})")
        if not planned:
            lines.append("  nobody")
    return "\n".join(lines)


def _ends(window: Window) -> str:
    """The expiry and the end of a window. Between them is grace."""
    expires, ends = window.expires_at, window.ends_at
    ends_text = [f"expires_at {show_time(expires)}"] if expires else []
    ends_text += [f"terminates_at {show_time(ends)}"] if ends else []
    return ", ".join(ends_text) or "no end"


def _grants(policy: Policy) -> dict[Target, list[PlannedGrant]]:
    return planned_grants(policy.services.values(), policy.licenses)


def _service(service: Service) -> dict[str, Any]:
    return {
        "product": service.product,
        "at": _at(service),
        "owner": [_selector(selector) for selector in service.owner],
        "ports": [_port(port) for port in service.ports],
        "on_end": "cut" if service.cuts else "keep",
        "on_deny": "drop" if service.drops else "reset",
        "on_unresolved": {
            port_class.value: service.unresolved(port_class).name.lower() for port_class in service.classes
        },
        "place": str(service.place),
    }


def _at(service: Service) -> Any:
    if service.at_containers:
        return {"container": [_container(selector) for selector in service.at_containers]}
    return "host" if service.at is None else [show_network(network) for network in service.at]


def _container(selector: ContainerSelector) -> dict[str, str]:
    return {key: value for key, value in asdict(selector).items() if value}


def _port(port: Port) -> dict[str, Any]:
    return {
        "port": port.first if port.first == port.last else f"{port.first}-{port.last}",
        "protocol": port.protocol.name.lower(),
        "class": port.port_class.value,
        "bind": [show_network(network) for network in listening_scope(port)],
        "place": str(port.place),
    }


def _principal(principal: Principal) -> dict[str, Any]:
    return {
        "selectors": [_selector(selector) for selector in principal.selectors],
        "place": str(principal.place),
    }


def _selector(selector: Selector) -> dict[str, Any]:
    keys: dict[str, tuple[Any, ...]] = {
        "exe": selector.exe,
        "user": selector.users,
        "uid": selector.uids,
        "group": selector.groups,
        "gid": selector.gids,
        "unit": selector.units,
        "cgroup": selector.cgroups,
        "container": tuple(map(_container, selector.containers)),
        "cidr": tuple(show_network(network) for network in selector.networks),
    }
    return {key: list(values) for key, values in keys.items() if values} | {"place": str(selector.place)}


def _license(license_: License) -> dict[str, Any]:
    return {
        "id": license_.id,
        "product": license_.product,
        "licensee": license_.licensee,
        "kind": _kind(license_),
        "serial": license_.document.serial if license_.document else None,
        "issuer": license_.document.issuer if license_.document else None,
        "verified": license_.document is not None and license_.is_verified,
        "state": license_.state.name.lower() if license_.state else None,
        **_window(license_.window),
        "place": str(license_.place),
    }


def _kind(license_: License) -> str | None:
    """production, evaluation or development; None for a license of the policy."""
    return license_.document.kind.value if license_.document else None


def _window(window: Window) -> dict[str, str | None]:
    times = {
        "starts_at": window.starts_at,
        "expires_at": window.expires_at,
        "terminates_at": window.ends_at,
    }
    return {name: show_time(moment) if moment else None for name, moment in times.items()}
