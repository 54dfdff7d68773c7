"""`licet explain`: which rule decides for a consumer and a target, and why. It reads policy files only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic_core import PydanticCustomError

from agent.cli import completion, offline
from agent.cli.documents import Keys, Licenses, documents
from agent.cli.running import Config
from agent.cli.time_here import asked_time
from agent.cli.values import MOST_ID, MOST_PID, account, whole
from agent.errors import EXIT_NO
from agent.model import Address, Container, to_address
from agent.observe.proc import ProcReader
from agent.policy.decision.explain import explain as explain_decision
from agent.policy.decision.question import Question
from agent.policy.document import fields
from agent.policy.document.expectations import target_named

Parsed = TypeVar("Parsed")


def explain(
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="service/class, or service if it has one class.",
            autocompletion=completion.targets,
        ),
    ],
    pid: Annotated[
        int | None, typer.Option(metavar="PID", help="A running process.", parser=whole(1, MOST_PID))
    ] = None,
    exe: Annotated[str, typer.Option(help="Path of a program.")] = "",
    user: Annotated[
        str,
        typer.Option(metavar="USER", help="User name or number; includes the user's groups.", parser=account),
    ] = "",
    uid: Annotated[
        int | None, typer.Option(metavar="UID", help="As --user, by number.", parser=whole(0, MOST_ID))
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP", help="A group, by name or number; may be repeated.", parser=account),
    ] = None,
    unit: Annotated[str, typer.Option(help="A systemd unit, as billing.service.")] = "",
    cgroup: Annotated[str, typer.Option(help="A cgroup2 path.")] = "",
    container: Annotated[str, typer.Option(help="Name of a container.")] = "",
    image: Annotated[str, typer.Option(help="Image of a container.")] = "",
    address: Annotated[str, typer.Option("--from", help="A remote consumer, by its address.")] = "",
    at: Annotated[str, typer.Option(help="Time, as 2027-01-01T00:00:00Z; default: now.")] = "",
    policy: Annotated[
        list[Path] | None, typer.Option(help="Policy file or directory; may be repeated.")
    ] = None,
    config: Config = None,
    in_force: offline.InForce = False,
    licenses: Licenses = None,
    keys: Keys = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the decision for a consumer, and the rule that decides. Exit code 3 if the consumer is denied."""
    when = _parsed("--at", fields.instant, at) if at else None
    account = _account(user) if user else uid
    groups = tuple(map(_account, group or ())) or _groups(account)
    question = Question(
        exe=_parsed("--exe", fields.exe, exe) if exe else "",
        user=account,
        groups=groups,
        unit=_parsed("--unit", fields.one_unit, unit) if unit else "",
        cgroup=_parsed("--cgroup", fields.cgroup, cgroup) if cgroup else "",
        container=_container(container, image),
        address=_address(address) if address else None,
    )
    _refuse_mixtures(question, pid, (user, uid), (unit, cgroup), (unit, container), (cgroup, container))
    judged_at = asked_time(when, config)
    loaded = offline.load(config, policy or [], judged_at, in_force=in_force)
    signed = documents(config, licenses, keys, when)
    loaded = signed.joined(loaded, offline.host_facts(loaded), policy or ())
    try:
        chosen = target_named(loaded, target)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--target") from None
    if pid is None:
        bench = offline.answer_questions(loaded, [question], judged_at)
    else:
        reader = ProcReader()
        process = reader.process(pid)
        if process is None:
            raise typer.BadParameter(f"no process {pid}, or no permission to read it", param_hint="--pid")
        containers = offline.named_containers(config)
        bench = offline.answer_process(loaded, reader, process, judged_at, containers)
    found = explain_decision(loaded, bench.compiled, bench.consumers[0], chosen, judged_at.ns)
    typer.echo(json.dumps(found.to_json()) if as_json else found.to_text())
    if found.denied:
        raise typer.Exit(EXIT_NO)


def _refuse_mixtures(question: Question, pid: int | None, *pairs: tuple[object, object]) -> None:
    described = question != Question()
    if pid is not None and described:
        raise typer.BadParameter(
            "--pid already describes the consumer: give no other description", param_hint="--pid"
        )
    if pid is None and not described:
        raise typer.BadParameter(
            "no consumer given: use --pid, --from, or --exe, --user, --group, --unit, --cgroup, --container"
        )
    if question.address is not None and question != Question(address=question.address):
        raise typer.BadParameter(
            "a remote consumer is known only by its address: give no other description", param_hint="--from"
        )
    if any(one not in ("", None) and other not in ("", None) for one, other in pairs):
        raise typer.BadParameter(
            "give only one of --user and --uid, and only one of --unit, --cgroup and --container"
        )


def _container(name: str, image: str) -> Container | None:
    asked = {key: value for key, value in (("name", name), ("image", image)) if value}
    return _parsed("--container", fields.one_container, asked) if asked else None


def _account(written: str) -> str | int:
    return int(written) if written.isdecimal() else written


def _groups(account: str | int | None) -> tuple[int, ...]:
    return () if account is None else offline.groups_of_user(account)


def _address(written: str) -> Address:
    try:
        return to_address(written)
    except ValueError:
        raise typer.BadParameter(
            f"'{written}' is not a valid address (write 10.2.0.7 or fd00::7)", param_hint="--from"
        ) from None


def _parsed(option: str, parse: Callable[[object], Parsed], written: object) -> Parsed:
    try:
        return parse(written)
    except PydanticCustomError as error:
        context = error.context or {}
        remedy = f" ({context['remedy']})" if context.get("remedy") else ""
        raise typer.BadParameter(f"{context.get('reason')}{remedy}", param_hint=option) from None
