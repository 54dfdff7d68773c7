from __future__ import annotations

from agent.daemon.policy_sync.host_facts import mentions_of
from agent.policy.document.load import parse_policy

POLICY = """
version: 1
services:
  db:
    product: acme
    owner: [{exe: /usr/bin/postgres, user: postgres}]
    ports: [{port: 5432, class: internal}]
principals:
  billing: [{exe: /opt/billing/bin/*, user: billing}, {group: finance}, {uid: 1000, gid: 1000}]
  ops: [{unit: ops.service}, {cidr: 10.0.0.0/8}]
"""


def test_users_groups_and_executables_are_those_of_principals_and_owners() -> None:
    mentions = mentions_of(parse_policy(POLICY))
    assert mentions.users == {"postgres", "billing"}
    assert mentions.groups == {"finance"}
    assert mentions.executables == {"/usr/bin/postgres", "/opt/billing/bin/*"}


def test_who_is_excluded_is_mentioned_by_name_and_number() -> None:
    exclusions = "restrictions: [{exclude: billing, target: db}, {exclude: ops, target: db}]"
    mentions = mentions_of(parse_policy(POLICY + exclusions))
    assert mentions.excluded_users == {"billing", 1000}
    assert mentions.excluded_groups == {"finance", 1000}
    assert not mentions_of(parse_policy(POLICY)).excluded_users


def test_a_policy_of_nothing_and_no_policy_mention_nothing() -> None:
    assert mentions_of(None) == mentions_of(parse_policy("version: 1"))
    assert not mentions_of(None).users
