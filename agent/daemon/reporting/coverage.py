"""Traffic that licet does not see or judge, on any kernel or on this one."""

from __future__ import annotations

from collections.abc import Container

from agent.export.status import NotCovered
from agent.kernel.attach.gates import LISTENER, REWRITTEN

NOT_COVERED = (
    ("unix sockets", "a connection through one is neither judged nor counted"),
    ("UDP by multicast or broadcast", "what arrives so is neither judged nor counted"),
    (
        "UDP to a connected socket",
        "the kernel finds it without a hook: it goes by what was judged at its first datagram",
    ),
    ("raw and packet sockets, TUN", "what is injected there is seen only where a local server accepts it"),
    ("NAT on this host", "a rewritten connection may count at each end, and arrives judged by its address"),
    ("addresses that others can send from", "a cidr principal is whoever has the address"),
    (
        "what a container is, where no daemon runs",
        "one made meanwhile stays unresolved: denied where it enforces, unless on_unresolved is allow",
    ),
    ("network namespaces held only by a file descriptor", "their listeners are not listed"),
)
CHANGED_ON_ITS_WAY = (
    "a connect() that a load balancer's program changes",
    "before Linux 6.10 sockops programs cannot read the process: judged by address where it arrives",
)
LISTENS_UNBIDDEN = (
    "a stranger's listener in its first moment",
    "before Linux 6.10 sockops programs cannot read the cgroup: judged at the agent's next look",
)
_NEEDS = ((REWRITTEN, CHANGED_ON_ITS_WAY), (LISTENER, LISTENS_UNBIDDEN))
"""Programs, and the traffic that is not covered without them."""


def not_covered(missing: Container[str]) -> list[NotCovered]:
    """The traffic that is not covered. `missing` has the programs that this kernel does not load."""
    lacking = (what for name, what in _NEEDS if name in missing)
    return [{"what": what, "follows": follows} for what, follows in (*NOT_COVERED, *lacking)]
