"""An executable that was never seen before is judged by its path in its first millisecond, in enforce."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.fixtures.lab import Lab
from tests.fixtures.saying import connections

COPIES = 2_000
SOURCE = Path(__file__).parents[1] / "fixtures" / "connect.c"
POLICY = """\
version: 1
services:
  db: {{product: acme, on_unresolved: deny, ports: [{{port: 7351, class: internal}}]}}
principals:
  licensed: [{{exe: {folder}/licensed/*}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""
# a hard link would be the same file: each is copied, run once, and gone before anybody looks
EACH_ONCE = """
refused=0
for ((i = 0; i < {copies}; i++)); do
    cp {program} {folder}/$i
    {folder}/$i tcp 127.0.0.1 7351 || refused=$((refused + 1))
    rm {folder}/$i
done
echo $refused
"""


def test_2000_fresh_copies_of_each_are_all_judged_right(shared_lab: Lab) -> None:
    lab = shared_lab
    program = lab.directory / "connect"
    subprocess.run(["cc", "-O2", "-Wall", "-static", "-o", program, SOURCE], check=True)
    folders = {name: lab.directory / name for name in ("licensed", "other")}
    for folder in folders.values():
        folder.mkdir()
    lab.serve(lab.host, "127.0.0.1", 7351)
    with lab.agent(POLICY.format(folder=lab.directory)) as agent:
        runs = {
            name: lab.run(
                lab.host,
                ["bash", "-c", EACH_ONCE.format(copies=COPIES, program=program, folder=folder)],
                stdout=subprocess.PIPE,
            )
            for name, folder in folders.items()
        }
        refused = {name: int(run.communicate(timeout=120)[0]) for name, run in runs.items()}
        assert refused == {"licensed": 0, "other": COPIES}
        assert connections(agent, "db") == {("loopback", "allowed"): COPIES, ("loopback", "denied"): COPIES}
