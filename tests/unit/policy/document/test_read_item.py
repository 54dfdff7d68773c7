"""Each kind of mistake in a policy is told with its line, its cause and its remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.errors import PolicyError, PolicyErrors
from agent.policy.document.load import load_policy_files, parse_policy
from agent.policy.tables import shape
from tests.unit.policy.mistakes import MISTAKES, WHOLE


def mistakes(text: str) -> list[PolicyError]:
    with pytest.raises(PolicyErrors) as caught:
        parse_policy(text)
    return caught.value.errors


def marked_line(text: str) -> int | None:
    return next((number for number, line in enumerate(text.splitlines(), 1) if "#!" in line), None)


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_told_with_line_cause_and_remedy(kind: str) -> None:
    text, cause, remedy = MISTAKES[kind]
    found = [error for error in mistakes(text) if cause in error.reason]
    assert found, [str(error) for error in mistakes(text)]
    assert {error.line for error in found} == {marked_line(text)}
    assert all(remedy in error.remedy for error in found)
    assert all(error.path == "policy.yaml" for error in found)


def test_the_policy_the_mistakes_are_put_into_has_none() -> None:
    assert parse_policy(WHOLE).warnings == ()


def test_all_mistakes_are_found_in_one_pass_in_the_order_of_lines() -> None:
    text = WHOLE.replace("5432, class: internal", "0, class: internet").replace(
        "[billing, ops]", "[bill, opps]"
    )
    text = text.replace("[{group: sre}]", "[{group: sre, exe: x}]")
    assert [error.line for error in mistakes(text)] == [5, 5, 9, 14, 14]


def test_a_part_with_a_mistake_is_not_also_called_undefined() -> None:
    text = WHOLE.replace("{unit: billing.service}", "{unit: billing}").replace(
        "[{port: 80, class: public}]", "[]"
    )
    assert [error.line for error in mistakes(text)] == [6, 8]


def test_a_name_defined_in_two_files_is_told_with_both_places(tmp_path: Path) -> None:
    first, second = tmp_path / "policy.yaml", tmp_path / "10-more.yaml"
    first.write_text(WHOLE)
    second.write_text("version: 1\nprincipals:\n  ops: [{user: root}]\n")
    with pytest.raises(PolicyErrors) as caught:
        load_policy_files([first, second])
    (error,) = caught.value.errors
    assert (error.path, error.line) == (str(second), 3)
    assert f"already defined at {first}:9" in error.reason


def test_an_unreadable_file_does_not_make_its_names_undefined(tmp_path: Path) -> None:
    rules, names = tmp_path / "a.yaml", tmp_path / "b.yaml"
    rules.write_text(WHOLE.replace("  ops: [{group: sre}]\n", ""))
    names.write_bytes(b"version: 1\nprincipals:\n  ops: [{group: s\xffre}]\n")
    with pytest.raises(PolicyErrors) as caught:
        load_policy_files([rules, names])
    (error,) = caught.value.errors
    assert (error.path, error.line) == (str(names), 3)
    assert "not UTF-8" in error.reason


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyErrors, match=r"gone\.yaml: cannot be read: No such file"):
        load_policy_files([tmp_path / "gone.yaml"])


def test_a_control_character_is_named_with_its_line() -> None:
    (error,) = mistakes("version: 1\n# \x01\n")
    assert error.line == 2


def test_aliases_cannot_blow_up_memory() -> None:
    lines = ["version: 1", "a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{other}: &{other} [{', '.join([f'*{one}'] * 10)}]")
    (error,) = mistakes("\n".join(lines))
    assert error.reason == "more than 500,000 values, with aliases written out"


def test_too_many_values_without_an_alias_are_not_blamed_on_aliases() -> None:
    (error,) = mistakes(f"version: 1\na: [{'x,' * 500_000}]")
    assert (error.reason, "alias" in (error.remedy or "")) == ("more than 500,000 values", False)


def test_nine_grants_for_one_target_are_too_many() -> None:
    names = [f"p{number}" for number in range(9)]
    text = WHOLE.replace("  ops: ", "".join(f"  {name}: [{{uid: 1}}]\n" for name in names) + "  ops: ")
    text = text.replace("[billing, ops]", f"[{', '.join(names)}], services: [web]")
    (error,) = mistakes(text)
    assert "web/public has 9 grants, 8 are the most" in error.reason
    assert "'l1/app' for 'p8'" in error.reason


def test_more_groups_than_are_looked_for_are_too_many_for_one_target() -> None:
    fits = ", ".join(f"{{gid: {number}}}" for number in range(64))
    parse_policy(WHOLE.replace("{group: sre}", fits))
    error, *_ = mistakes(WHOLE.replace("{group: sre}", f"{{group: sre}}, {fits}"))
    assert error.line == 3
    assert "target db/internal: its principals name 65 groups, 64 are the most" in error.reason


def test_groups_of_excluded_principals_count_and_those_of_other_targets_do_not() -> None:
    listed = ", ".join(map(str, range(64)))
    text = WHOLE.replace("{group: sre}", f"{{gid: [{listed}]}}")
    text = text.replace("licenses:", "  out: [{group: ghosts}]\nlicenses:")
    parse_policy(text)
    (error,) = mistakes(text + "restrictions: [{exclude: out, target: web}]\n")
    assert "target web/public: its principals name 65 groups" in error.reason


def test_owners_of_too_many_groups_are_a_mistake_of_their_own() -> None:
    listed = ", ".join(map(str, range(65)))
    text = WHOLE.replace("    product: acme\n", f"    product: acme\n    owner: [{{gid: [{listed}]}}]\n", 1)
    error, *_ = mistakes(text)
    assert "its owners name 65 groups" in error.reason


def test_a_glob_that_the_kernel_cannot_match_is_warned_of_with_what_it_can() -> None:
    text = WHOLE.replace("{group: sre}", "{exe: ['/opt/*/bin/x', '/opt/*/bin/*']}")
    (warning,) = parse_policy(text).warnings
    assert warning.place.line == 9
    assert "cannot match '/opt/*/bin/*'. The first connect()" in warning.reason
    owner = WHOLE.replace("    product: acme\n", "    product: acme\n    owner: [{exe: '/o?t/x'}]\n", 1)
    assert "service 'db', owner: the kernel cannot match" in parse_policy(owner).warnings[0].reason


def test_globs_of_more_shapes_than_the_kernel_looks_at_are_too_many() -> None:
    fits = [f"/opt/{'x' * length}*/run" for length in range(16)]
    again = [f"/srv/{'y' * length}*/other" for length in range(16)]
    parse_policy(WHOLE.replace("{group: sre}", f"{{exe: {[*fits, *again, '/opt/*']}}}"))
    (error,) = mistakes(WHOLE.replace("{group: sre}", f"{{exe: {[*fits, *again, '/opt/x*']}}}"))
    assert error.line == 9
    assert "'/opt/x*' is one too many" in error.reason
    assert "16 ways" in error.reason


def test_more_selectors_than_the_kernel_has_bits_are_too_many() -> None:
    listed = ", ".join(f"{{uid: {number}}}" for number in range(1022))
    parse_policy(WHOLE.replace("{group: sre}", listed))
    (error,) = mistakes(WHOLE.replace("{group: sre}", f"{listed}, {{uid: 0}}"))
    assert (error.line, "1,024 selectors in all, 1,023 are the most" in error.reason) == (9, True)


def test_a_hundred_thousand_addresses_of_one_principal_are_one_selector() -> None:
    addresses = ", ".join(f"{{cidr: 10.{n >> 8 & 255}.{n & 255}.0/24}}" for n in range(2000))
    parse_policy(WHOLE.replace("{group: sre}", addresses))


STARTS = "    product: acme\n    starts_at: 2026-01-01T00:00:00Z\n    entitlements"


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        (WHOLE.replace("web: {product: acme", "web: {product: free"), 6, "no license for product 'free'"),
        (WHOLE.replace("app, ", "app, classes: [internal, public], "), 3, "no entitlement covers db/admin"),
        (
            WHOLE.replace("    product: acme\n    entitlements", STARTS).replace(
                "id: app,", "id: app, expires_at: 2020-01-01T00:00:00Z,"
            ),
            15,
            "its time window is outside the license's",
        ),
        (
            WHOLE.replace("web: {", "web: {at: [10.0.0.0/8], ").replace(
                "principals:\n",
                "  near: {at: [10.1.0.0/16], product: acme, ports: [{port: 80, class: public}]}\n"
                "principals:\n",
                1,
            ),
            7,
            "10.1.0.0/16 lies in 10.0.0.0/8 of service 'web'; 'near' gets the port there",
        ),
    ],
)
def test_what_was_hardly_meant_is_a_warning(text: str, line: int | None, cause: str) -> None:
    found = [warning for warning in parse_policy(text).warnings if cause in warning.reason]
    assert [warning.place.line for warning in found] == [line]


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_a_policy_that_says_nothing_is_refused(text: str) -> None:
    """An editor that truncates before it writes would otherwise put "no policy" in force."""
    with pytest.raises(PolicyErrors, match="the policy is empty"):
        parse_policy(text)


def test_one_file_of_several_may_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\n")
    (tmp_path / "b.yaml").write_text("")
    policy = load_policy_files([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert [warning.reason for warning in policy.warnings] == ["the file is empty"]


def test_too_many_selectors_are_told_with_their_number_and_the_way_out() -> None:
    many = ", ".join(f"{{uid: {number}}}" for number in range(1100))
    (error,) = mistakes(WHOLE.replace("{group: sre}", many))
    assert "1,101 selectors in all, 1,023 are the most" in error.reason
    assert "several values in one selector" in error.remedy
    parse_policy(WHOLE.replace("{group: sre}", f"{{uid: [{', '.join(map(str, range(1100)))}]}}"))
    parse_policy(
        WHOLE.replace(
            "{group: sre}", ", ".join(f"{{cidr: 10.0.{n // 250}.{n % 250}/32}}" for n in range(1100))
        )
    )


def test_each_limit_stands_in_the_docs() -> None:
    page = (Path(__file__).parents[4] / "docs" / "limits.md").read_text()
    limits = dict(re.findall(r"^\| ([^|]*) \| ([0-9,]+) \|", page, flags=re.MULTILINE))
    assert {name: int(number.replace(",", "")) for name, number in limits.items()} == {
        "ports and ranges": shape.MAX_PORT_ENTRIES,
        "places": shape.MAX_PLACES,
        "targets": shape.MAX_TARGETS,
        "selectors": shape.SET_BITS - 1,
        "grants of a target": shape.CANDIDATES,
        "levels of a cgroup": shape.MAX_CGROUPS,
        "components of an `exe`": shape.MAX_PATH_COMPONENTS,
        "groups of a target": shape.LISTED_GROUPS,
        "shapes of globs with one `*`": shape.MAX_SHAPES,
        "combinations": shape.MAX_SETS,
    }
