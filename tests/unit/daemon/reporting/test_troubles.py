"""Since when an agent is not ready: of the oldest of what is wrong, anew once that is mended."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from agent.daemon.reporting.troubles import Troubles
from agent.export.agent_port import TROUBLES


@dataclass
class Part:
    problem: str = ""
    retries: int = 0

    def retry(self) -> None:
        self.retries += 1

    def look(self) -> None:
        pass


def test_it_is_not_ready_since_the_oldest_of_what_keeps_it_from_being(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = {cause: Part() for cause in TROUBLES}
    several = {cause: [Part(), parts[cause]] for cause in ("policy", "state", "licenses")}
    troubles = Troubles(**{**parts, **several}, policy_is_in_force=True)  # type: ignore[arg-type]

    def at(now_s: float, **changes: str) -> float | None:
        monkeypatch.setattr(time, "time", lambda: now_s)
        for cause, why in changes.items():
            parts[cause].problem = why
        return troubles.not_ready_since()

    assert at(10) is None
    assert at(20, clock="set back") is None  # it is ready all the same
    assert at(30, state="disk full") == 30
    assert at(40, pins="another's") == 30
    assert at(50, state="") == 40
    assert at(60, pins="") is None
    assert at(70, state="disk full") == 70


def test_every_cause_is_told_by_its_name() -> None:
    parts = {cause: Part(f"{cause} is wrong") for cause in TROUBLES}
    several = {cause: [parts[cause]] for cause in ("policy", "state", "licenses")}
    troubles = Troubles(**{**parts, **several})  # type: ignore[arg-type]
    assert troubles.now() == {cause: f"{cause} is wrong" for cause in TROUBLES}


def test_until_the_first_policy_is_in_force_nothing_is_ready() -> None:
    parts = {cause: Part() for cause in TROUBLES}
    several = {cause: [parts[cause]] for cause in ("policy", "state", "licenses")}
    troubles = Troubles(**{**parts, **several})  # type: ignore[arg-type]
    assert troubles.why_not_ready() == "programs are attached, the policy is not in force yet"
    troubles.policy_is_in_force = True
    assert troubles.why_not_ready() == ""


def test_readiness_does_not_ask_for_licenses() -> None:
    parts = {cause: Part() for cause in TROUBLES}
    several = {cause: [parts[cause]] for cause in ("policy", "state", "licenses")}
    troubles = Troubles(**{**parts, **several}, policy_is_in_force=True)  # type: ignore[arg-type]
    parts["licenses"].problem = "signatures cannot be verified"
    assert troubles.now()["licenses"] == "signatures cannot be verified"
    assert troubles.why_not_ready() == ""
    assert troubles.not_ready_since() is None


def test_what_could_not_be_written_is_written_later_licenses_included() -> None:
    parts = {cause: Part() for cause in TROUBLES}
    several = {cause: [parts[cause]] for cause in ("policy", "state", "licenses")}
    troubles = Troubles(**{**parts, **several})  # type: ignore[arg-type]
    troubles.look()
    assert (parts["state"].retries, parts["licenses"].retries, parts["policy"].retries) == (1, 1, 0)
