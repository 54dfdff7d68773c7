"""An executable that was never seen before is judged by its path in its first millisecond, in enforce."""

from __future__ import annotations

import pytest

from tests.fixtures.fresh_copies import each_once
from tests.fixtures.lab import Lab
from tests.fixtures.memory_limit import resident
from tests.fixtures.saying import connections

POLICY = """\
version: 1
services:
  db: {{product: acme, ports: [{{port: 7351, class: internal}}]}}
principals:
  licensed: [{{exe: {folder}/{pattern}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""


@pytest.mark.parametrize(
    ("pattern", "copies"), [("licensed/*", 2_000), ("licensed/copy-*", 500), ("lice*/copy-499", 500)]
)
def test_fresh_copies_are_all_judged_right(lab: Lab, pattern: str, copies: int) -> None:
    folders = {name: lab.directory / name for name in ("licensed", "other")}
    for folder in folders.values():
        folder.mkdir()
    lab.serve(lab.host, "127.0.0.1", 7351)
    with lab.agent(POLICY.format(folder=lab.directory, pattern=pattern)) as agent:
        before = resident(agent)
        runs = {name: each_once(lab, folder, copies, 7351) for name, folder in folders.items()}
        refused = {name: int(run.communicate(timeout=120)[0]) for name, run in runs.items()}
        let_in = 1 if pattern.endswith("499") else copies
        assert refused == {"licensed": copies - let_in, "other": copies}
        assert connections(agent, "db") == {
            ("loopback", "allowed"): let_in,
            ("loopback", "denied"): 2 * copies - let_in,
        }
        assert resident(agent) - before < 20e6, "consumers that never come again"
