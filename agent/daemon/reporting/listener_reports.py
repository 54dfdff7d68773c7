"""Emits events about listeners: wrong owners, refused binds, and peers from outside a listening scope."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.reporting.outlet import Outlet
from agent.daemon.tracking.listeners import serving_process
from agent.daemon.tracking.usage import Attempt
from agent.export import events
from agent.export.agent_port import JudgedListener
from agent.export.events import Event
from agent.model import Address, ListenerState, Process, Protocol, show_address
from agent.wording import counted

LISTENERS_OF_ONE = 100
"""Limit for the new listeners of one user that are reported one by one after a look."""

Found = list[tuple[JudgedListener, ListenerState]]


@dataclass(frozen=True, slots=True)
class ListenerReports:
    outlet: Outlet
    keeper: PolicyKeeper

    def found(self, found: Found) -> None:
        """Report new listeners one by one, up to a limit for each user: one user may have 20,000."""
        alike: dict[tuple[ListenerState, str, str, int], list[JudgedListener]] = {}
        for one, state in found:
            alike.setdefault((state, one.service, one.port_class, one.listener.uid), []).append(one)
        for (state, *_), group in alike.items():
            for one in group[:LISTENERS_OF_ONE]:
                self._listener(one, state)
            if len(group) > LISTENERS_OF_ONE:
                self._more(group[-1], state, len(group) - LISTENERS_OF_ONE)

    def refused_bind(
        self, process: Process, address: Address, protocol: Protocol, port: int, target: int, attempts: int
    ) -> None:
        """Report that a process tried to bind a declared port of another owner, with the number of
        attempts."""
        served = self._served_by(target)
        self.outlet.report(
            "listener",
            {
                "reason": ListenerState.OWNER_MISMATCH.value,
                "enforced": True,
                **served,
                "address": show_address(address),
                "port": port,
                "protocol": protocol.name.lower(),
                "owner": events.process_fields(process),
                "explanation": _why_refused(process, port, served),
                "counts": {"attempts": attempts},
            },
        )

    def exposure(self, attempt: Attempt) -> None:
        """Report a port that was reached from outside its listening scope."""
        use, target = attempt.use, attempt.target
        peer = show_address(use.source)
        self.outlet.report(
            "exposure",
            {
                "reason": ListenerState.EXPOSED.value,
                **events.target_fields(target),
                "consumer": events.consumer_fields(None, use.source),
                "tuple": events.tuple_fields(
                    use.protocol, use.source, use.source_port, use.destination, use.port
                ),
                "explanation": f"reached from {peer}, outside its listening scope; "
                "narrow who can reach it, or widen `bind` of the port",
            },
        )

    def _listener(self, judged: JudgedListener, state: ListenerState) -> None:
        listener = judged.listener
        owner = serving_process(listener)
        self.outlet.report(
            "listener",
            {
                "reason": state.value,
                "service": judged.service,
                "class": judged.port_class,
                **(self._owners_rule(judged.service) if state is ListenerState.OWNER_MISMATCH else {}),
                "bind": judged.bind,
                "address": show_address(listener.address),
                "port": listener.port,
                "protocol": listener.protocol.name.lower(),
                "owner": events.process_fields(owner) if owner else {},
                "explanation": judged.explanation
                or f"{show_address(listener.address)}:{listener.port} is not declared by any service",
            },
        )

    def _more(self, one: JudgedListener, state: ListenerState, more: int) -> None:
        owner = serving_process(one.listener)
        self.outlet.report(
            "listener",
            {
                "reason": state.value,
                "service": one.service,
                "class": one.port_class,
                "owner": events.process_fields(owner) if owner else {},
                "explanation": f"and {counted(more, 'more listener')} of uid {one.listener.uid}: "
                "licet listeners",
                "counts": {"listeners": more},
            },
        )

    def _served_by(self, number: int) -> Event:
        """A target, and the place in the policy that names its owners."""
        target = self.keeper.ids.target_named(number)
        return {**events.target_fields(target), **self._owners_rule(target.service)} if target else {}

    def _owners_rule(self, name: str) -> Event:
        policy = self.keeper.policy
        service = policy.services.get(name) if policy else None
        return {"rule": str(service.owner[0].place)} if service and service.owner else {}


def _why_refused(process: Process, port: int, served: Event) -> str:
    """Explanation of a refused bind. `served` has the port's target and the place of the rule. It is empty if
    the policy has changed meanwhile."""
    if "rule" not in served:
        return f"bind() to port {port} was refused: the policy names another owner of it"
    who, user = process.exe or process.comm, process.user or process.uid
    return (
        f"bind() to port {port} of {served['service']} was refused: {who} of user {user} is not one of its "
        f"owners ({served['rule']}): stop it, or add it to `owner`: {{exe: {who}, user: {user}}}"
    )
