"""The command `licet licenses`."""

from __future__ import annotations

from agent.cli.alone import asked
from agent.cli.output import Json, print_json
from agent.cli.running import Config
from agent.export.license_text import about_unsigned, license_lines, signers
from agent.export.sanitize import printable

NONE = "there is no license: no file in paths.licenses, and none in the policy"


def licenses(config: Config = None, as_json: Json = False) -> None:
    """List the licenses with state, kind and key, and what happens next and when."""
    answer = asked(config, "/v1/licenses", as_json)
    if as_json:
        print_json(answer)
        return
    lines = [*license_lines(answer), *signers(answer), about_unsigned(answer)]
    for line in filter(None, lines if any(lines) else [NONE]):
        print(printable(line))
