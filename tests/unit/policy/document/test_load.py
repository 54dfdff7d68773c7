"""Finding, merging and understanding policy files."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PolicyErrors
from agent.model import PortClass, Protocol, to_network
from agent.policy.document.load import find_policy_files, load_in_place, load_policy_files, parse_policy
from agent.policy.values import UndeclaredListeners, Unresolved
from tests.fixtures.policies import policy_texts
from tests.unit.policy.mistakes import WHOLE

DESIGN_EXAMPLE = """\
version: 1
services:
  orders-db:
    product: acme-orders
    at: host
    owner: [{unit: postgresql.service}]
    ports:
      - {port: 5432, class: internal}
      - {port: 9187, class: admin, bind: [127.0.0.0/8]}
  flexnet: {product: acme-orders, at: [10.0.0.5/32], ports: [{port: 27000-27009, class: internal}]}
principals:
  billing: [{unit: billing.service}, {exe: /opt/billing/bin/*, user: billing}, {cidr: 10.2.0.0/16}]
  ops: [{group: sre}]
licenses:
  - id: acme-2026
    product: acme-orders
    expires_at: 2027-01-01T00:00:00Z
    entitlements:
      - {id: app, classes: [internal], principals: [billing]}
      - {id: operate, classes: [admin], principals: [ops]}
restrictions:
  - {exclude: ops, target: orders-db/internal}
enforcement: {default: observe, orders-db/admin: observe}
undeclared_listeners: violation
"""


def test_the_example_of_the_design_means_what_it_says() -> None:
    policy = parse_policy(DESIGN_EXAMPLE)
    db = policy.services["orders-db"]
    assert db.at is None
    assert [(port.first, port.port_class) for port in db.ports] == [
        (5432, PortClass.INTERNAL),
        (9187, PortClass.ADMIN),
    ]
    assert db.ports[1].bind == (to_network("127.0.0.0/8"),)
    assert db.owner[0].units == ("postgresql.service",)
    assert policy.services["flexnet"].at == (to_network("10.0.0.5/32"),)
    assert (policy.services["flexnet"].ports[0].first, policy.services["flexnet"].ports[0].last) == (
        27000,
        27009,
    )
    assert policy.principals["billing"].selectors[1].users == ("billing",)
    assert policy.licenses[0].window.expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert policy.licenses[0].window.ends_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert policy.exclusions[0].port_class is PortClass.INTERNAL
    assert policy.undeclared_listeners is UndeclaredListeners.VIOLATION


def test_names_and_selectors_know_where_they_were_written() -> None:
    policy = parse_policy(DESIGN_EXAMPLE, "etc/policy.yaml")
    assert str(policy.services["flexnet"].place) == "etc/policy.yaml:10"
    assert str(policy.services["orders-db"].ports[1].place) == "etc/policy.yaml:9"
    assert str(policy.principals["ops"].selectors[0].place) == "etc/policy.yaml:13"
    assert str(policy.licenses[0].entitlements[1].place) == "etc/policy.yaml:20"
    assert str(policy.exclusions[0].place) == "etc/policy.yaml:22"


def test_defaults_are_this_host_tcp_and_report() -> None:
    policy = parse_policy(WHOLE)
    assert policy.services["web"].at is None
    assert policy.services["web"].ports[0].protocol is Protocol.TCP
    assert policy.undeclared_listeners is UndeclaredListeners.REPORT


@pytest.mark.parametrize(
    ("port_class", "meant"),
    [
        (PortClass.PUBLIC, Unresolved.ALLOW_UNLESS_ENFORCING),
        (PortClass.INTERNAL, Unresolved.ALLOW_UNLESS_ENFORCING),
        (PortClass.ADMIN, Unresolved.DENY),
    ],
)
def test_an_unknown_consumer_is_denied_on_admin_ports_and_where_it_is_enforced(
    port_class: PortClass, meant: Unresolved
) -> None:
    assert parse_policy(WHOLE).services["db"].unresolved(port_class) is meant


@pytest.mark.parametrize(("said", "meant"), [("deny", Unresolved.DENY), ("allow", Unresolved.ALLOW)])
def test_on_unresolved_overrides_the_default_of_every_class(said: str, meant: Unresolved) -> None:
    text = WHOLE.replace("    product: acme\n", f"    product: acme\n    on_unresolved: {said}\n", 1)
    service = parse_policy(text).services["db"]
    assert {service.unresolved(each) for each in PortClass} == {meant}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2027-01-01T00:00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("'2027-01-01T00:00:00Z'", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01 02:00:00 +02:00", datetime(2027, 1, 1, tzinfo=UTC)),
        ("'2027-01-01T02:00+02:00'", datetime(2027, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_times_may_be_yaml_timestamps_or_text(written: str, meant: datetime) -> None:
    text = WHOLE.replace("    entitlements", f"    expires_at: {written}\n    entitlements")
    assert parse_policy(text).licenses[0].window.expires_at == meant


def test_an_alias_stands_for_what_it_names() -> None:
    text = WHOLE.replace("[{group: sre}]", "&team [{group: sre}]").replace(
        "[{unit: billing.service}]", "[{uid: 1}]"
    )
    text = text.replace("licenses:", "  also: *team\nlicenses:")
    assert parse_policy(text).principals["also"].selectors[0].groups == ("sre",)


def test_files_merge_in_name_order_after_the_main_one(tmp_path: Path) -> None:
    main, parts = tmp_path / "policy.yaml", tmp_path / "policy.d"
    parts.mkdir()
    main.write_text(WHOLE)
    (parts / "20-b.yaml").write_text("version: 1\nprincipals: {b: [{uid: 2}]}\n")
    (parts / "10-a.yaml").write_text("version: 1\nprincipals: {a: [{uid: 1}]}\n")
    (parts / "15-c.yml").write_text("version: 1\nprincipals: {c: [{uid: 3}]}\n")
    for ignored in (".#10-a.yaml", "notes.txt", "30-c.yaml~"):
        (parts / ignored).write_text("not a policy: [")
    loaded = load_in_place(main, parts)
    assert loaded is not None
    policy = loaded.policy
    assert list(policy.principals) == ["billing", "ops", "a", "c", "b"]
    names = ("10-a.yaml", "15-c.yml", "20-b.yaml")
    assert policy.files == tuple(map(str, (main, *(parts / name for name in names))))


def test_a_rule_may_name_what_a_later_file_defines(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(WHOLE.replace("  ops: [{group: sre}]\n", ""))
    second.write_text("version: 1\nprincipals: {ops: [{group: sre}]}\n")
    assert "ops" in load_policy_files([first, second]).principals


def test_no_file_at_all_is_no_policy(tmp_path: Path) -> None:
    assert find_policy_files(tmp_path / "policy.yaml", tmp_path / "policy.d") == []
    assert load_in_place(tmp_path / "policy.yaml", tmp_path / "policy.d") is None


def test_a_directory_that_vanished_is_an_empty_one(tmp_path: Path) -> None:
    main = tmp_path / "policy.yaml"
    main.write_text(WHOLE)
    assert find_policy_files(main, tmp_path / "gone") == [main]


def test_a_main_file_in_the_policy_directory_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(WHOLE)
    assert find_policy_files(tmp_path / "policy.yaml", tmp_path) == [tmp_path / "policy.yaml"]


def test_a_place_that_may_not_be_looked_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyErrors, match="cannot be read: File name too long"):
        find_policy_files(tmp_path / "policy.yaml", tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["policy.yaml", "policy.d/a.yaml"])
def test_a_fifo_is_an_error_and_not_waited_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "policy.d").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(PolicyErrors, match=f"{name}: cannot be read: it is a FIFO, and a file is expected"):
        find_policy_files(tmp_path / "policy.yaml", tmp_path / "policy.d")


def test_a_policy_directory_alone_is_a_policy(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(WHOLE)
    loaded = load_in_place(tmp_path / "none.yaml", tmp_path)
    assert loaded is not None
    policy = loaded.policy
    assert len(policy.targets) == 3


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_an_error_with_a_message_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "garbage.yaml"
    file.write_bytes(raw)
    with suppress(PolicyErrors):
        load_policy_files([file])


@pytest.mark.parametrize("value", ["!!int", "!!int ''", "!!float", "!!bool x", "!!timestamp x", "2027-13-01"])
def test_a_tag_that_does_not_fit_its_value_is_a_mistake(value: str) -> None:
    with pytest.raises(PolicyErrors):
        parse_policy(f"version: {value}\n")


@settings(max_examples=150, deadline=None)
@given(policy_texts(), st.data())
def test_a_damaged_policy_is_an_error_or_another_policy(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(
        st.sampled_from(["", "[", "}", ": ", "\t", "- ", "&a ", "*a", "!!int ", "null", "\n", "'", "\x85"])
    )
    cut = data.draw(st.integers(0, 30))
    with suppress(PolicyErrors):
        parse_policy(text[:at] + junk + text[at + cut :])
