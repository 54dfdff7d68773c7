"""`licet policy check | test | show`: check policy files without an agent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli import offline
from agent.cli.documents import Keys, Licenses, documents
from agent.cli.running import Config
from agent.cli.show_policy import policy_json, policy_text
from agent.cli.time_here import JudgedAt, asked_time, moment_here
from agent.errors import EXIT_NO, MOST_SHOWN, PolicyErrors, shown
from agent.license.clock import Moment
from agent.policy.decision.explain import Explanation, explain
from agent.policy.document.expectations import Case, CaseFile, load_cases, target_named
from agent.policy.document.load import load_policy_files
from agent.policy.findings import policy_errors
from agent.policy.validity import IN_FORCE, Validity, ended, validity_of
from agent.policy.values import Finding, Policy
from agent.wording import counted

app = typer.Typer(help="Check, test and show a policy, without an agent.", no_args_is_help=True)

Files = Annotated[
    list[Path] | None, typer.Argument(help="Policy files or directories; default: those in force.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(
    files: Files = None,
    config: Config = None,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="For another host: no warnings about what this one lacks.")
    ] = False,
    licenses: Licenses = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """List every mistake with file, line, cause and remedy. Exit code 3 if there is an error."""
    chosen = offline.policy_files(config, files or [])
    errors: list[dict[str, Any]] = []
    warnings: tuple[Finding, ...] = ()
    policy = None
    now = Moment.of(datetime.now(UTC)) if elsewhere else moment_here(config)
    try:
        policy = load_policy_files(chosen, now.license)
        facts = offline.host_facts(policy) if elsewhere else offline.facts_here(config, policy)
        signed = documents(config, licenses, keys, elsewhere=elsewhere)
        policy, compiled, refused = signed.compiled(policy, facts, files or (), now.license)
        warnings = compiled.warnings if elsewhere else (*compiled.warnings, *compiled.of_host)
        holding = [one for one in policy.licenses if one.state is None and one.is_verified]
        warnings = (*refused, *ended(holding, now), *warnings)
        if not elsewhere:
            warnings = (*offline.not_only_roots(config, files or []), *warnings)
            warnings = (*warnings, *offline.rights_lost(policy, compiled, facts.host_netns, config))
    except PolicyErrors as error:
        errors = [_error_json(each.path, each.line, each.reason, each.remedy) for each in error.errors]
        if not as_json:
            typer.echo(str(error))
    if as_json:
        warning_fields = [_finding_json(each) for each in warnings]
        names = [str(file) for file in chosen]
        typer.echo(
            json.dumps(
                {
                    "ok": not errors,
                    "files": names,
                    "errors": errors[:MOST_SHOWN],
                    "warnings": warning_fields[:MOST_SHOWN],
                    "not_shown": max(0, len(errors) - MOST_SHOWN) + max(0, len(warning_fields) - MOST_SHOWN),
                }
            )
        )
    else:
        _print_check(policy, now, warnings, len(errors))
    if errors:
        raise typer.Exit(EXIT_NO)


def _print_check(policy: Policy | None, now: Moment, warnings: tuple[Finding, ...], errors: int) -> None:
    for warning in shown(warnings):
        typer.echo(f"warning: {warning}")
    if policy is None:
        typer.echo(counted(errors, "error"))
        return
    counts = [
        counted(len(policy.targets), "target"),
        counted(len(policy.principals), "principal"),
        _license_count(policy, now),
        *([counted(len(warnings), "warning")] if warnings else ()),
    ]
    typer.echo(f"fine: {', '.join(counts)}")


def _license_count(policy: Policy, now: Moment) -> str:
    """`2 licenses`: those that hold now. `1 license (1 has not begun, 2 do not hold)`."""
    found = [validity_of(one, now) for one in policy.licenses]
    holding = sum(one in IN_FORCE for one in found)
    later = found.count(Validity.NOT_YET_VALID)
    rest = len(found) - holding - later
    more = [f"{later} {'has' if later == 1 else 'have'} not begun"] if later else []
    more += [f"{rest} {'does' if rest == 1 else 'do'} not hold"] if rest else []
    return counted(holding, "license") + (f" ({', '.join(more)})" if more else "")


def _finding_json(finding: Finding) -> dict[str, Any]:
    return _error_json(finding.place.file, finding.place.line, finding.reason, finding.remedy)


def _error_json(file: str, line: int | None, reason: str, remedy: str) -> dict[str, Any]:
    return {"file": file, "line": line, "reason": reason, "remedy": remedy}


@app.command("test")
def run_cases(
    file: Annotated[Path, typer.Argument(help="YAML: cases of {target, consumer, expect}.")],
    config: Config = None,
    licenses: Licenses = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Compare expected decisions with the policy's. Exit code 3 if one differs."""
    cases = load_cases(file)
    files = [cases.policy] if cases.policy else []
    now = asked_time(None, config)
    policy = offline.load(config, files, JudgedAt(cases.at) if cases.at else now)
    policy = documents(config, licenses, keys, cases.at).joined(policy, offline.host_facts(policy), files)
    results = _run(policy, cases, now)
    failed = [(case, found) for case, found in results if not _holds(case, found)]
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "cases": [_case_json(*result) for result in results]}))
    else:
        for case, found in failed:
            typer.echo(f"{case.place}: {case.name}: expected {_expected(case)}\n{_indented(found.to_text())}")
        typer.echo(f"{len(results) - len(failed)} of {counted(len(results), 'case holds', 'cases hold')}")
    if failed:
        raise typer.Exit(EXIT_NO)


def _run(policy: Policy, cases: CaseFile, now: JudgedAt) -> list[tuple[Case, Explanation]]:
    """`now`: for cases without a time."""
    questions = [offline.with_groups(case.question) for case in cases.cases]
    asked = [case.at or cases.at for case in cases.cases]
    times = [JudgedAt(one) if one else now for one in asked]
    benches = {at: offline.answer_questions(policy, questions, at) for at in dict.fromkeys(times)}
    results = []
    wrong: list[Finding] = []
    for number, (case, at) in enumerate(zip(cases.cases, times, strict=True)):
        bench = benches[at]
        try:
            target = target_named(policy, case.target)
        except ValueError as error:
            wrong.append(Finding(case.place, f"{case.name}: {error}"))
            continue
        results.append((case, explain(policy, bench.compiled, bench.consumers[number], target, at.ns)))
    if wrong:
        raise policy_errors(wrong)
    return results


def _holds(case: Case, found: Explanation) -> bool:
    verdict = found.verdict
    return verdict.decision is case.expect and case.reason in (None, verdict.reason)


def _expected(case: Case) -> str:
    decision = case.expect.name.lower()
    return f"{decision}, {case.reason.name.lower()}" if case.reason else decision


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _case_json(case: Case, found: Explanation) -> dict[str, Any]:
    return {
        "name": case.name,
        "place": str(case.place),
        "holds": _holds(case, found),
        "expected": {
            "decision": case.expect.name.lower(),
            "reason": case.reason.name.lower() if case.reason else None,
        },
        "found": found.to_json(),
    }


@app.command()
def show(
    files: Files = None,
    config: Config = None,
    in_force: offline.InForce = False,
    licenses: Licenses = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Show the policy as licet reads it: all files merged, defaults filled in, license documents joined."""
    policy = offline.load(config, files or [], asked_time(None, config), in_force=in_force)
    policy = documents(config, licenses, keys).joined(policy, offline.host_facts(policy), files or ())
    typer.echo(json.dumps(policy_json(policy)) if as_json else policy_text(policy))
