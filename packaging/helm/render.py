"""Renders the chart as `helm template` does, through Helm's own library (helm-python-sdk):

    python packaging/helm/render.py [VALUES.json] [--lint]

Prints one YAML stream in template order, the notes as a comment before it; with --lint, what `helm lint`
says, and fails where that is an error. A process of its own: the library brings the Go runtime along."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helm_python

CHART = Path(__file__).parent / "licet"
NAME = "licet"


def render(values: dict[str, Any]) -> str:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=NAME, namespace=NAME)
    notes = next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
    comment = "".join(f"# {line}".rstrip() + "\n" for line in notes.splitlines())
    texts = (text.strip() for path, text in sorted(rendered.items()) if path.endswith(".yaml"))
    return comment + "---\n" + "\n---\n".join(text.removeprefix("---\n") for text in texts if text) + "\n"


def lint(values: dict[str, Any]) -> int:
    report = helm_python.lint(CHART, values, strict=True)
    print(json.dumps(report, indent=1))
    return 1 if report["errors"] else 0


def main(arguments: list[str]) -> int:
    files = [argument for argument in arguments if argument != "--lint"]
    values = json.loads(Path(files[0]).read_text()) if files else {}
    if "--lint" in arguments:
        return lint(values)
    try:
        sys.stdout.write(render(values))
    except helm_python.HelmError as error:
        print(f"render: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
