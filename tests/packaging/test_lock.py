"""What packages bundle is what pyproject.toml asks for: each library in one version, known by its hashes."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from tests.packaging.chart import ROOT

LOCK = ROOT / "packaging" / "requirements.txt"


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Each with its hashes, by normalized name."""
    text = re.sub(r"\\\n\s+", "", re.sub(r"^\s*#.*\n", "", LOCK.read_text(), flags=re.MULTILINE))
    found = {}
    for line in text.splitlines():
        asked, *hashes = re.split(r"\s*--hash=", line)
        requirement = Requirement(asked)
        found[requirement.name] = (requirement, hashes)
    return found


def test_each_library_has_one_version_and_hashes() -> None:
    for name, (requirement, hashes) in locked().items():
        (only,) = requirement.specifier
        assert only.operator == "==", name
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), name


def test_it_has_all_that_is_asked_for_in_a_version_that_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    have = locked()
    for text in project["dependencies"]:
        asked = Requirement(text)
        requirement, _ = have[asked.name.lower()]
        (only,) = requirement.specifier
        assert asked.specifier.contains(only.version), f"{text}: run `make lock`"


def test_it_is_for_linux_and_every_python_that_packages_are_built_for() -> None:
    releases = (ROOT / "packaging" / "releases.txt").read_text()
    pythons = set(re.findall(r"(3\.\d+)$", releases, flags=re.MULTILINE))
    assert pythons
    for name, (requirement, _) in locked().items():
        if requirement.marker is None or "platform" in str(requirement.marker):
            continue
        held = {version for version in pythons if requirement.marker.evaluate({"python_version": version})}
        assert held, f"{name}: for no Python that is built for"
