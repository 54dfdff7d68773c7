"""Warns about selectors that can match nothing on this host. These are not errors, because a policy may be
written ahead."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model import HostFacts, Script
from agent.policy.tables.given_ports import given_ports
from agent.policy.tables.selectors import named_selectors
from agent.policy.terms.cgroups import container_in, ground_of, template_of
from agent.policy.terms.paths import exe_matches
from agent.policy.terms.symlinks import exe_selects
from agent.policy.values import Finding, Policy, Selector


def host_warnings(policy: Policy, facts: HostFacts) -> list[Finding]:
    """The warnings. An executable exists if the facts have it among executables or real paths. Units are
    checked only if the facts have cgroups at all."""
    paths = facts.executables | set(facts.realpaths) | set(facts.realpaths.values())
    ground = ground_of(facts)
    units = {unit for path in facts.cgroups if (unit := ground.unit_at(path) or ground.unit_of(path))}
    units |= {template for unit in units if (template := template_of(unit))}
    findings: list[Finding] = []
    for what, selector in named_selectors(policy.principals.values(), policy.services.values()):
        for reason, remedy in _doubts(selector, facts, paths, units):
            findings.append(Finding(selector.place, f"{what}: {reason}", remedy))
    return [*findings, *given_ports(policy, facts)]


def _doubts(
    selector: Selector, facts: HostFacts, paths: set[str] | frozenset[str], units: set[str]
) -> Iterator[tuple[str, str]]:
    for pattern in selector.exe:
        # A ** may stand for a whole directory tree, which was not searched.
        if pattern in paths or "**" in pattern:
            continue
        if not any(exe_matches(pattern, path) for path in paths):
            yield f"no file on this host is '{pattern}'", "correct the path, or install the program"
    for pattern in selector.exe:
        if script := facts.scripts.get(pattern):
            yield _of_script(pattern, script)
    if selector.only_exe and (program := _claimed_by_anybody(selector, facts)):
        yield (
            f"any user may execute {program}, so any user can pass for it (docs/enforcement.md)",
            "add user, group or unit",
        )
    for user in selector.users:
        if user not in facts.users:
            yield f"user '{user}' does not exist on this host", "correct the name, or create the user"
    yield from _given_away(selector, facts)
    for group in selector.groups:
        if group not in facts.groups:
            yield f"group '{group}' does not exist on this host", "correct the name, or create the group"
    for unit in selector.units if facts.cgroups else ():
        if why := facts.units_at_rest.get(unit):
            yield f"unit '{unit}' selects no process now: {why}", "name the unit that the program runs in"
        elif unit not in units:
            yield f"unit '{unit}' is not running on this host", "correct the name, or start it"
    if any(each.pod or each.namespace for each in selector.containers):
        for node in sorted(_nodes_in_containers(facts)):
            reason = (
                f"container {node} is a Kubernetes node (kind), and its pods count as that container: "
                "`pod` and `namespace` match nothing"
            )
            yield reason, "run the agent in the node, in the node's cgroup namespace"


def _given_away(selector: Selector, facts: HostFacts) -> Iterator[tuple[str, str]]:
    """Users whose uid is also a subordinate id of an excluded user. An exclusion of one excludes the
    other."""
    named = [(f"user '{user}'", facts.users[user]) for user in selector.users if user in facts.users]
    for who, uid in (*named, *((f"uid {uid}", uid) for uid in selector.uids)):
        for owner, ranges in facts.subordinates.items():
            if uid != owner and any(uid in ids for ids in ranges):
                reason = f"{who} is a subordinate id of uid {owner} (subuid), and is excluded with it"
                yield reason, f"give uid {owner} other subordinate ids"


def _nodes_in_containers(facts: HostFacts) -> set[str]:
    """Names, or ids, of containers in which a kubelet made pods."""
    found = set()
    for path in facts.cgroups:
        top = container_in(path)
        below = path[len(top.path) :].split("/") if top else []
        if top and any(part.removeprefix("kubelet-").startswith("kubepods") for part in below):
            container = facts.containers.get(top.path)
            found.add(container.label if container else top.name or top.id[:12])
    return found


def _of_script(pattern: str, script: Script) -> tuple[str, str]:
    """Why a script selects no process, and the remedy. A script is never a consumer. Its interpreter is, or a
    program that the script executes in its place."""
    named = "is a script" if script.path == pattern else f"matches only scripts, such as {script.path}"
    reason = f"'{pattern}' {named}: the process that runs it is {script.interpreter}"
    if script.starts:
        return f"{reason}, then {', '.join(script.starts)}", f"name {' or '.join(script.starts)}"
    return reason, (
        "name the interpreter together with a unit or user, because it also runs all other scripts"
    )


def _claimed_by_anybody(selector: Selector, facts: HostFacts) -> str:
    """An executable that the selector matches and any user may execute."""
    for pattern in selector.exe:
        if pattern in facts.scripts:
            continue  # selects no process
        if facts.realpaths.get(pattern, pattern) in facts.for_anybody:
            return pattern
        if found := [path for path in facts.for_anybody if exe_selects(pattern, path, facts.realpaths)]:
            return min(found)
    return ""
