"""What people use instead: an nftables list, address and port by address and port."""

from __future__ import annotations

from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace

RULES = 1_000


def load_rules(lab: Lab, namespace: Namespace, rules: int = RULES) -> None:
    """An output chain in `namespace` (never the host's) that a connection of the bench goes through to its
    end: none of the rules names its address, and what they name they accept."""
    lines = "\n".join(
        f"add rule inet peer output ip daddr 10.{20 + n // 250}.{n % 250}.1 tcp dport {5000 + n} accept"
        for n in range(rules)
    )
    script = lab.directory / "peer.nft"
    script.write_text(
        "add table inet peer\n"
        "add chain inet peer output { type filter hook output priority 0; policy accept; }\n"
        f"{lines}\n"
    )
    lab.call(namespace, ["nft", "-f", script], cgroup=None)
