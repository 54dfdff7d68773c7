from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.policies import policy_of_grants

CLIENT = Path("/opt/client")


def grants_by_port(text: str) -> dict[int, list[str]]:
    """Principals that a port's product licenses, in policy order."""
    policy = json.loads(text)
    licensed = {
        license["product"]: [entitlement["principals"][0] for entitlement in license["entitlements"]]
        for license in policy["licenses"]
    }
    return {
        service["ports"][0]["port"]: licensed[service["product"]] for service in policy["services"].values()
    }


@pytest.mark.parametrize("grants", [8, 10, 10_000])
def test_a_policy_has_as_many_grants_as_were_asked_for(grants: int) -> None:
    by_port = grants_by_port(policy_of_grants(grants, port=5432, consumer=CLIENT))
    assert sum(map(len, by_port.values())) == grants


@pytest.mark.parametrize("grants", [8, 10, 10_000])
def test_the_measured_consumer_is_the_eighth_candidate_whatever_the_size(grants: int) -> None:
    by_port = grants_by_port(policy_of_grants(grants, port=5432, consumer=CLIENT))
    assert by_port[5432].index("measured") == 7
