"""Metrics of the policy in force, and of modes."""

from __future__ import annotations

from collections.abc import Iterator

from agent.export.agent_port import Snapshot
from agent.export.families import Family, counter, gauge, of


def modes(snapshot: Snapshot) -> Iterator[Family]:
    """Of the modes in effect."""
    enforcing = gauge("licet_enforcing", "1 where attempts are refused.")
    wanted = gauge(
        "licet_enforcing_wanted",
        "1 where the mode in effect is enforce, whether or not a gate could be attached.",
    )
    for target in snapshot.targets:
        labels = of(target)
        enforcing.add(labels, int(snapshot.enforcing.get(target, False)))
        wanted.add(labels, int(snapshot.enforcing_wanted.get(target, False)))
    yield from (enforcing, wanted)
    overrides = gauge("licet_mode_overrides", "Run-time overrides of the mode that are in force.")
    overrides.add({}, len(snapshot.mode_overrides))
    yield overrides
    since = gauge(
        "licet_mode_override_since_timestamp_seconds",
        "When a run-time override that is in force was set, in Unix time; empty service and class: the host.",
    )
    for override in snapshot.mode_overrides:
        place = of(override.target) if override.target else {"service": "", "port_class": ""}
        since.add(place | {"mode": override.mode.value}, override.since_unix_s)
    yield since


def policy(snapshot: Snapshot) -> Iterator[Family]:
    """Of the files in force, and of reloads."""
    generation = gauge(
        "licet_policy_generation",
        "Generation of the kernel's policy tables; it also grows when the host changes.",
    )
    generation.add({}, snapshot.policy_generation)
    yield generation
    if snapshot.policy_sha256:
        info = gauge("licet_policy_info", "The policy in force, by the hash of its files.")
        info.add({"sha256": snapshot.policy_sha256}, 1)
        yield info
    failures = counter(
        "licet_policy_reload_failures", "Reloads that failed; the previous policy stayed in force."
    )
    failures.add({}, snapshot.policy_reload_failures)
    yield failures
    succeeded = gauge(
        "licet_policy_last_reload_successful", "0 while the policy in force differs from the policy files."
    )
    succeeded.add({}, int(snapshot.policy_reload_ok))
    yield succeeded
    loaded = gauge(
        "licet_policy_loaded_timestamp_seconds", "When the policy in force was loaded, in Unix time."
    )
    loaded.add({}, snapshot.policy_loaded_unix_s)
    yield loaded
