"""What the demo plays on: says what happens, looks for what the agent told, remembers what was wrong."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import wait_for

Expected = Mapping[str, Any]


class Stage:
    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._step = 0
        colour = sys.stdout.isatty()
        self._bold, self._green, self._red, self._off = (
            ("\033[1m", "\033[32m", "\033[31m", "\033[0m") if colour else ("",) * 4
        )

    def step(self, title: str) -> None:
        self._step += 1
        self.say(f"\n{self._bold}{self._step}. {title}{self._off}")

    def say(self, text: str) -> None:
        print(text, flush=True)

    def check(self, what: str, found: object, expected: object) -> None:
        if found == expected:
            self.say(f"   {self._green}✓{self._off} {what}: {found}")
            return
        self.wrong.append(f"step {self._step}: {what}: {found!r}, expected {expected!r}")
        self.say(f"   {self._red}✗ {what}: {found!r}, expected {expected!r}{self._off}")

    def check_event(self, agent: RunningAgent, told_before: int, expected: Expected) -> dict[str, Any]:
        """Wait for an event after the first `told_before` that says all of `expected`, and show it.

        Keys with dots look inside: "consumer.exe". Returns the event, {} if there was none."""
        try:
            event = wait_for(
                lambda: next((e for e in agent.events()[told_before:] if _says(e, expected)), None),
                f"an event that says {dict(expected)}",
                timeout_s=15,
            )
        except TimeoutError as error:
            self.wrong.append(f"step {self._step}: {error}")
            self.say(f"   {self._red}✗ {error}{self._off}")
            for told in agent.events()[told_before:]:
                self.say(f"     instead: {told}")
            return {}
        said = ", ".join(f"{key} {value}" for key, value in expected.items())
        self.say(f"   {self._green}✓{self._off} event: {said}")
        return event


def look(event: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None if there is none."""
    value: Any = event
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _says(event: Mapping[str, Any], expected: Expected) -> bool:
    return all(look(event, key) == value for key, value in expected.items())
