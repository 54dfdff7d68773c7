"""A release that is switched to by a link is licensed by the next second or two."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fixtures.lab import Lab
from tests.fixtures.waiting import wait_for

PATTERNS = {7651: "current/bin/app", 7652: "current/bin/*", 7653: "*/bin/app", 7654: "usr/bin/app"}
"""By the port that takes whoever they mean."""
SETTINGS = {"intervals": {"reconcile": 3600}}
"""Nothing else makes the agent look."""


def lead(link: Path, target: Path) -> None:
    fresh = link.with_name(".new")
    fresh.symlink_to(target)
    fresh.rename(link)


class Release:
    """A program in two releases, and the links that lead to it."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._lab, self._port = lab, port
        self._releases = lab.directory / str(port) / "releases"
        self.root = lab.directory / str(port) / "srv"
        self.old, self.new = (lab.executable(str(self._releases / each / "bin/app")) for each in ("1", "2"))
        for link in ("current", "usr/bin/app"):
            (self.root / link).parent.mkdir(parents=True, exist_ok=True)
        self.switch("1")
        lead(self.root / "usr/bin/app", self.root / "current/bin/app")  # as alternatives do

    def switch(self, to: str) -> None:
        lead(self.root / "current", self._releases / to)

    def lets_in(self, program: Path) -> bool:
        made = self._lab.load(self._lab.host, "127.0.0.1", self._port, program=program)
        assert made["ok"] or made["errors"] == {"EPERM": 1}
        return bool(made["ok"])


def policy(releases: dict[int, Release]) -> str:
    return json.dumps(
        {
            "version": 1,
            "services": {
                f"db-{port}": {"product": f"acme-{port}", "ports": [{"port": port, "class": "internal"}]}
                for port in releases
            },
            "principals": {
                f"app-{port}": [{"exe": str(release.root / PATTERNS[port])}]
                for port, release in releases.items()
            },
            "licenses": [
                {
                    "id": f"acme-{port}",
                    "product": f"acme-{port}",
                    "entitlements": [{"id": "use", "classes": ["internal"], "principals": [f"app-{port}"]}],
                }
                for port in releases
            ],
            "enforcement": {"default": "enforce"},
        }
    )


def test_the_new_release_is_licensed_and_the_old_one_no_more(lab: Lab) -> None:
    releases = {port: Release(lab, port) for port in PATTERNS}
    for port in PATTERNS:
        lab.serve(lab.host, "127.0.0.1", port)
    with lab.agent(policy(releases), SETTINGS):
        for port, one in releases.items():
            assert (one.lets_in(one.old), one.lets_in(one.new)) == (True, False), PATTERNS[port]
        for port, one in releases.items():
            one.switch("2")
            wait_for(lambda one=one: one.lets_in(one.new), f"the new release of {PATTERNS[port]} is licensed")
            assert not one.lets_in(one.old), PATTERNS[port]
