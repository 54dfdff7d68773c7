"""Policies of a chosen size, in which one target and one consumer are those that are measured."""

from __future__ import annotations

import json
from pathlib import Path

CANDIDATES = 8
FIRST_PORT = 20_000
"""Further targets get the ports from here on."""


def policy_of_grants(grants: int, *, port: int, consumer: Path) -> str:
    """JSON, which is YAML. `consumer` is licensed for `port` by the last of the target's 8 grants, so that
    all 8 are looked at; the other grants are for other ports. The last target has what is left over."""
    targets = -(-grants // CANDIDATES)
    ports = [port, *range(FIRST_PORT, FIRST_PORT + targets - 1)]
    rest = grants % CANDIDATES
    products = ["whole"] * targets
    if rest:
        products[-1] = "rest"
    return json.dumps(
        {
            "version": 1,
            "services": {
                f"service-{n}": {"product": products[n], "ports": [{"port": each, "class": "internal"}]}
                for n, each in enumerate(ports)
            },
            "principals": {
                **{
                    f"other-{n}": [{"exe": f"/opt/other/{n}", "uid": 60_000 + n}]
                    for n in range(CANDIDATES - 1)
                },
                "measured": [{"exe": str(consumer)}],
            },
            "licenses": [
                _license("whole", CANDIDATES - 1, measured=True),
                *([_license("rest", rest, measured=False)] if rest else []),
            ],
        }
    )


def _license(product: str, others: int, *, measured: bool) -> dict[str, object]:
    principals = [f"other-{n}" for n in range(min(others, CANDIDATES - 1))] + ["measured"] * measured
    return {
        "id": f"{product}-license",
        "product": product,
        "entitlements": [
            {"id": f"by-{principal}", "classes": ["internal"], "principals": [principal]}
            for principal in principals
        ],
    }


def policy_of_services(services: int) -> str:
    """So many services at this host, a port each, which anyone may use. Every eighth names its owner, because
    a policy has room for 1,023 selectors."""
    owned = {"owner": [{"uid": 0}]}
    return json.dumps(
        {
            "version": 1,
            "services": {
                f"service-{n}": {
                    "product": "whole",
                    "ports": [{"port": FIRST_PORT + n, "class": "internal"}],
                    **(owned if n % 8 == 0 else {}),
                }
                for n in range(services)
            },
            "licenses": [
                {
                    "id": "whole-license",
                    "product": "whole",
                    "entitlements": [{"id": "use", "classes": ["internal"], "principals": ["anyone"]}],
                }
            ],
        }
    )


def one_grant(*, port: int | str, consumer: Path) -> str:
    """What most operators start with: one service, one licensed executable."""
    return json.dumps(
        {
            "version": 1,
            "services": {"db": {"product": "db", "ports": [{"port": port, "class": "internal"}]}},
            "principals": {"app": [{"exe": str(consumer)}]},
            "licenses": [
                {
                    "id": "db-license",
                    "product": "db",
                    "entitlements": [{"id": "app", "classes": ["internal"], "principals": ["app"]}],
                }
            ],
        }
    )
