"""Formats a usage error in one line: which option, what was given, what is accepted."""

from __future__ import annotations

import re
from typing import Any

import typer

from agent.export.sanitize import printable
from agent.wording import did_you_mean

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The UsageError of the click that typer uses: its own copy, or the installed one."""


def describe(error: Any) -> str:
    """The message for a UsageError."""
    context = error.ctx
    what = printable(_what(error, context))
    return f"{what} (see `{context.command_path} --help`)" if context else what


def _what(error: Any, context: Any) -> str:
    match type(error).__name__:
        case "MissingParameter":
            return f"{_named(error)} is missing"
        case "BadParameter":
            return ": ".join(filter(None, (_named(error), error.message)))
        case "NoSuchOption":
            return f"{error.option_name}: no such option; {_nearest(error.option_name, _options(context))}"
        case "BadOptionUsage":
            takes_none = "does not take a value" in error.message
            return f"{error.option_name}: " + (
                "no value is expected" if takes_none else "a value is expected after it"
            )
    if found := re.match(r"Got unexpected extra arguments? ?(?:\(s\))? ?\((.*)\)$", error.message):
        return f"{found[1]}: not expected here"
    if found := re.match(r"No such command '(.*?)'\.", error.message):
        return f"{found[1]}: no such command; {_nearest(found[1], list(context.command.commands))}"
    return str(error.message)


def _named(error: Any) -> str:
    """The option's long name; for an argument, the name of its place."""
    if isinstance(error.param_hint, str):
        return error.param_hint
    if error.param is None:
        return ""
    long = [name for name in error.param.opts if name.startswith("--")]
    return str(long[0] if long else (error.param.metavar or error.param.name).strip("[]"))


def _options(context: Any) -> list[str]:
    parameters = context.command.get_params(context) if context else ()
    return [name for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("--")]


def _nearest(name: str, known: list[str]) -> str:
    return did_you_mean(name, known, f"there are {', '.join(known)}")
