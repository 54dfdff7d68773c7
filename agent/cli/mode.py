"""The command `licet mode`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from agent.cli import completion
from agent.cli.alone import answering, asked, reached
from agent.cli.output import Json, print_json, print_table, target_name
from agent.cli.running import Config
from agent.cli.status import span
from agent.cli.values import one_of, seconds
from agent.errors import EXIT_FAILED, EXIT_USAGE
from agent.export.client import ControlClient
from agent.export.human import place
from agent.export.sanitize import printable
from agent.model import Mode
from agent.wording import counted, listed

SWITCHED_WITHIN_S = 300.0
"""The timeout of a switch. Soon after the start, the daemon waits until the gates are loaded: the loader
has two minutes and a second try."""
PREVIEWED_WITHIN_S = 60.0
"""The timeout of a preview, which is slow if there were many thousands of consumers."""


def mode(
    wanted: Annotated[
        str | None,
        typer.Argument(
            metavar="[observe|enforce]",
            help="Switch to this mode.",
            parser=one_of(tuple(Mode)),
            autocompletion=completion.modes,
        ),
    ] = None,
    config: Config = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="SERVICE or SERVICE/CLASS; default: the whole host.",
            autocompletion=completion.targets,
        ),
    ] = None,
    for_s: Annotated[
        float | None,
        typer.Option(
            "--for", metavar="TIME", help="End the override after 90s, 10m, 2h, 1d.", parser=seconds
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Remove the override: the policy's mode applies.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before switching to enforce.")] = False,
    as_json: Json = False,
) -> None:
    """Show which targets enforce, or override the policy's mode. An override survives a restart of the
    agent. An override of a target takes precedence over one of the host."""
    if wanted and reset:
        raise typer.BadParameter("a mode and --reset exclude each other: give only one of them")
    if for_s is not None and not wanted:
        raise typer.BadParameter("--for needs a mode: licet mode observe --for 10m")
    body = {"mode": wanted, "target": target, "for_s": for_s}
    if not wanted and not reset:
        if target is not None:
            raise typer.BadParameter("--target needs a mode or --reset; `licet mode` shows all targets")
        _show(asked(config, "/v1/mode", as_json), as_json)
        return
    answering(config, as_json)
    with reached(config, as_json) as control:
        _ask_first(control, body, yes)
        answer = control.within(SWITCHED_WITHIN_S).post("/v1/mode", body)
    if as_json:
        print_json(answer)
    else:
        _print_result(answer)


def _ask_first(control: ControlClient, body: Mapping[str, Any], yes: bool) -> None:
    """Before a target switches to enforce, show which consumers it would have refused, and ask. The text
    goes to stderr, so that --json stays JSON."""
    preview = control.within(PREVIEWED_WITHIN_S).post("/v1/mode/preview", body)
    if body["mode"] != Mode.ENFORCE and not preview["turns_to_enforce"]:
        return
    _print_preview(preview)
    if yes:
        return
    if not sys.stdin.isatty():
        print(
            "licet: no terminal to ask for confirmation; nothing was changed. Use --yes to proceed.",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_USAGE)
    if not typer.confirm(
        "Refuse these from now on?" if preview["refused"] or preview.get("strangers") else "Go on?", err=True
    ):
        print("licet: nothing has changed", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED)


def _print_preview(preview: Mapping[str, Any]) -> None:
    hours = "the last hour" if preview["seconds"] == 3600 else f"the last {span(preview['seconds'])}"
    turning = (
        listed([*map(target_name, preview["turns_to_enforce"])]) or "nothing: all of them enforce already"
    )
    print(f"switches to enforce: {printable(turning)}", file=sys.stderr)
    for finding in preview.get("confined", ()):  # a daemon of an earlier version does not send it
        print(f"warning: {printable(finding)}", file=sys.stderr)
    _print_strangers(preview, hours)
    if preview.get("known_since"):
        print(f"usage is known since {_clock(preview['known_since'])}", file=sys.stderr)
    unknown = preview.get("unknown", ())
    if preview["refused"]:
        print(f"these attempts of {hours} would have been refused:", file=sys.stderr)
        _print_uses(preview["refused"], "REASON")
    else:
        what = "no known consumer" if unknown else "no attempt"
        print(f"{what} of {hours} would have been refused", file=sys.stderr)
    if unknown:
        print(
            "these could not be judged (the process ended too early, or was counted with others, and the "
            "policy has changed since):",
            file=sys.stderr,
        )
        _print_uses(unknown)


def _print_uses(rows: Sequence[Mapping[str, Any]], *more: str) -> None:
    print_table(
        ("CONSUMER", "TARGET", *more, "ATTEMPTS", "OPEN", "SINCE", "LAST"),
        (
            (
                one["consumer"],
                target_name(one),
                *(one[name.lower()] for name in more),
                f"{one['attempts']:,}",
                f"{one.get('open', 0):,}",
                _clock(one["since"]),
                _clock(one["last"]),
            )
            for one in rows
        ),
        nothing="",
        file=sys.stderr,
    )


def _print_strangers(preview: Mapping[str, Any], hours: str) -> None:
    """Strangers: processes that serve a port which others own. A gate refuses their bind(). A connection
    to one that listens already is refused too."""
    strangers = preview.get("strangers", ())
    if not strangers:
        return
    print(
        f"in {hours}, these served, or tried to serve, ports that others own (`owner` of the service):",
        file=sys.stderr,
    )
    print_table(
        ("TARGET", "PLACE", "HOW", "PROGRAM", "USER", "UNIT", "TIMES", "LAST"),
        (
            (
                target_name(one),
                place(one["address"], one["port"]),
                one["how"],
                one["exe"],
                str(one["user"]),
                one["unit"],
                f"{one['times']:,}",
                _clock(one["last"]),
            )
            for one in strangers
        ),
        nothing="",
        file=sys.stderr,
    )
    print("the socket gate refuses connections to those of them that listen already", file=sys.stderr)
    print(
        "to allow one, add it to the owners: owner: [..., {exe: PROGRAM, user: USER}], or {unit: UNIT}",
        file=sys.stderr,
    )


def _clock(time: str) -> str:
    return time[:19] + "Z"


def _print_result(answer: Mapping[str, Any]) -> None:
    scope = printable(answer["scope"] or "the host")
    until = answer["made"][0]["until"] if answer["made"] else None
    without = _without_it(answer)
    if answer["mode"]:
        print(f"{scope}: {answer['mode']}" + (f" until {_clock(until)}, then {without}" if until else ""))
    elif answer["previous"]:
        print(f"{scope}: {without}")
    else:
        print(f"{scope}: no override was set")
    if answer["mode"]:
        for one in answer["previous"]:
            print(f"  replaces {_scoped(one)}, which is not restored later")
    for one in answer["narrower"]:
        print(
            f"  {_scoped(one)} stays in force: "
            f"licet mode --reset --target {printable(one['scope'])} removes it"
        )
    enforcing = [one for one in answer["targets"] if one["mode"] == Mode.ENFORCE]
    if answer.get("problem"):
        print(f"warning: {printable(answer['problem'])}", file=sys.stderr)
    gates = ", ".join(answer["gates"]) or "none"
    targets = counted(len(answer["targets"]), "target enforces", "targets enforce")
    print(f"{len(enforcing)} of {targets}; gates attached: {gates}")


def _without_it(answer: Mapping[str, Any]) -> str:
    """The mode that applies once the override is gone."""
    if answer["scope"] is not None and any(one["scope"] is None for one in answer["overrides"]):
        return "the override of the host"
    return "the policy's mode"


def _scoped(one: Mapping[str, Any]) -> str:
    until = f" until {_clock(one['until'])}" if one["until"] else ""
    return f"{one['mode']} of {printable(one['scope'] or 'the host')}{until}"


def _show(answer: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print_table(
        ("TARGET", "MODE", "SET BY", "ENDS IN", "POLICY"),
        (
            (target_name(one), one["mode"], one["source"], _left(one), one["policy"])
            for one in answer["targets"]
        ),
        nothing="no policy declares a service: nothing to enforce",
        whole=("TARGET", "MODE"),
    )
    if answer["overrides"]:
        print()
        print_table(
            ("OVERRIDE", "MODE", "ENDS IN", "SINCE", "BY", "NOTE"),
            (
                (
                    one["scope"] or "the host",
                    one["mode"],
                    _left(one),
                    _clock(one["since"]),
                    f"uid {one['uid']} (pid {one['pid']})",
                    "" if one["in_policy"] else "not in the policy",
                )
                for one in answer["overrides"]
            ),
            nothing="",
        )
    print(f"\ngates attached: {', '.join(answer['gates']) or 'none'}")


def _left(one: Mapping[str, Any]) -> str:
    return "" if one["seconds_left"] is None else span(one["seconds_left"])
