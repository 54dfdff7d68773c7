"""`make configuration`: writes docs/configuration.md and packaging/host/etc/config.yaml from agent/config.py.

A setting's text is the string below its field; its default, choices and bounds are the field's own. With
--check nothing is written: ends with 1 where a file is not what would be written."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from agent import config

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "packaging" / "host" / "etc" / "config.yaml"
PAGE = ROOT / "docs" / "configuration.md"
SCHEMA = config.Settings.model_json_schema()
WIDTH = 110
PAGE_WIDTH = 130
FILE_HEAD = """\
# /etc/licet/config.yaml: the agent's own settings. What is commented out is the default. The policy is in
# /etc/licet/policy.yaml and /etc/licet/policy.d/*.yaml or *.yml; without one licet only watches. Nothing is
# ever refused until a policy, or `licet mode enforce`, says so.
#
# After a change: systemctl restart licet (the programs in the kernel go on judging meanwhile).
"""
PAGE_HEAD = """\
# Configuration

<!-- Made by `make configuration` from agent/config.py: change the texts there. -->

`/etc/licet/config.yaml` has the agent's own settings. `--config FILE` or LICET_CONFIG names another file.
What is left out has its default. A mistake is refused with file, line and key. Only root may be able to
write the file. A change needs a restart of the daemon; the kernel goes on judging meanwhile. Services and
consumers stand in the policy: [policy.md](policy.md).

```yaml
scope: {interfaces: ["*"]}
listen: 10.0.0.7:9477
events: {sink: /var/log/licet/events.jsonl, args: false}
```
"""


def section_of(name: str) -> type[BaseModel] | None:
    inner = config.Settings.model_fields[name].annotation
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def texts(section: type[BaseModel]) -> dict[str, str]:
    """What stands below each field. Raises KeyError, when one is asked for that has none."""
    (model,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(model, ast.ClassDef)
    found = {}
    for field, below in zip(model.body, model.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found


def properties(section: type[BaseModel]) -> dict[str, dict[str, Any]]:
    schema = SCHEMA if section is config.Settings else SCHEMA["$defs"][section.__name__]
    found: dict[str, dict[str, Any]] = schema["properties"]
    return found


def default_of(section: type[BaseModel], key: str) -> Any:
    value = section().model_dump(mode="json")[key]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def yaml_of(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def kind(schema: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if "enum" in schema:
        return " | ".join(schema["enum"])
    if "anyOf" in schema:
        return " or ".join(kind(each) for each in schema["anyOf"])
    if schema["type"] == "array":
        return f"list of {kind(schema['items'])}"
    words = {
        "string": "text",
        "boolean": "true | false",
        "integer": "number",
        "number": "number",
        "null": "null",
    }
    said = schema.get("format") or words[schema["type"]]
    bounds = [
        f"{word} {schema[key]:g}"
        for key, word in (("exclusiveMinimum", "above"), ("minimum", "from"), ("maximum", "to"))
        if key in schema
    ]
    return " ".join([said, *bounds])


def commented(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent=f"## {indent}", subsequent_indent=f"## {indent}")


def setting_lines(section: type[BaseModel], key: str, indent: str) -> Iterator[str]:
    choices = properties(section)[key].get("enum")
    yield from commented(texts(section)[key] + (f" {' | '.join(choices)}" if choices else ""), indent)
    value = default_of(section, key)
    line = f"# {indent}{key}: {yaml_of(value)}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"# {indent}{key}:"
    yield from (f"# {indent}  - {yaml_of(each)}" for each in value)


def file_text() -> str:
    lines = [FILE_HEAD]
    for name in config.Settings.model_fields:
        section = section_of(name)
        if section is None:
            lines += [*setting_lines(config.Settings, name, ""), ""]
            continue
        lines += [*commented(" ".join((section.__doc__ or "").split()), ""), f"# {name}:"]
        for key in section.model_fields:
            lines += setting_lines(section, key, "  ")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def entry(section: type[BaseModel], key: str, prefix: str) -> str:
    value = yaml_of(default_of(section, key))
    shape = f"{kind(properties(section)[key])}; `{value}`"
    text = f"- **`{prefix}{key}`** ({shape}). {texts(section)[key]}"
    return textwrap.fill(
        text, PAGE_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def page_text() -> str:
    parts = [PAGE_HEAD, "Each entry has its kind and its default in parentheses.\n", "## At the top\n"]
    parts += [
        entry(config.Settings, name, "") for name in config.Settings.model_fields if section_of(name) is None
    ]
    for name in config.Settings.model_fields:
        section = section_of(name)
        if section is None:
            continue
        text = textwrap.fill(" ".join((section.__doc__ or "").split()), PAGE_WIDTH)
        parts += [f"\n## {name}\n", text + "\n"]
        parts += [entry(section, key, f"{name}.") for key in section.model_fields]
    return "\n".join(parts) + "\n"


def main(argv: list[str]) -> int:
    stale = [
        (path, text) for path, text in ((FILE, file_text()), (PAGE, page_text())) if not is_as(path, text)
    ]
    for path, text in stale:
        if "--check" in argv:
            print(f"{path}: not what agent/config.py says: run make configuration", file=sys.stderr)
        else:
            path.write_text(text)
            print(path.relative_to(ROOT))
    return 1 if stale and "--check" in argv else 0


def is_as(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
