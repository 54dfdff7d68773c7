"""The command `licet flows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from agent.cli import completion
from agent.cli.alone import answering
from agent.cli.output import (
    Json,
    lives_in,
    print_json_array,
    print_table,
    program,
    target_name,
    target_names,
    who,
)
from agent.cli.running import Config
from agent.cli.status import span
from agent.wording import did_you_mean, listed

COLUMNS = ("VERDICT", "REASON", "PID", "CONSUMER", "SOURCE", "TARGET", "PORT", "SERVED BY", "AGE")
WHOLE = ("VERDICT", "PID", "SOURCE", "PORT", "AGE")


def flows(
    config: Config = None,
    as_json: Json = False,
    target: Annotated[
        str, typer.Option(help="Only SERVICE or SERVICE/CLASS.", autocompletion=completion.targets)
    ] = "",
) -> None:
    """List the open flows to declared ports, with the processes at both ends."""
    control = answering(config)
    if target:
        refuse_unknown_target(target, control.get("/v1/policy")["targets"])
    flows = control.elements("/v1/flows")
    found = (one for one in flows if target in ("", one["service"], target_name(one)))
    if as_json:
        print_json_array(found)
        return
    now = datetime.now(UTC)
    print_table(
        COLUMNS,
        (_row(one, now) for one in found),
        nothing=f"no open flow to {target or 'a declared port'}",
        whole=WHOLE,
    )


def _row(flow: Mapping[str, Any], now: datetime) -> tuple[object, ...]:
    consumer = flow["consumer"]
    age_s = (now - datetime.fromisoformat(flow["opened_at"])).total_seconds()
    return (
        flow["decision"],
        flow["reason"],
        consumer.get("pid", "-"),
        " ".join(filter(None, (program(consumer), lives_in(consumer)))) or "-",
        flow["tuple"].get("src", flow["origin"]),
        target_name(flow),
        flow["tuple"]["dport"],
        who(flow["acceptor"] or flow["owner"]),
        span(max(age_s, 0), units=1),
    )


def refuse_unknown_target(target: str, declared: Sequence[Mapping[str, str]]) -> None:
    """Raises BadParameter for a target that the policy lacks. An empty table would hide the mistake."""
    known = target_names(declared)
    if target not in known:
        remedy = did_you_mean(target, known, f"targets are {listed(sorted(known)) or 'none'}")
        raise typer.BadParameter(f"no target '{target}': {remedy}", param_hint="--target")
