"""The commands `licet run`, `load`, `unload` and `version`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

import typer

import agent
from agent.cli.values import one_of
from agent.config import DEFAULT_PATH, Settings, load_settings
from agent.wording import counted

CONFIG = "LICET_CONFIG"
"""Environment variable that names the configuration file."""
LOG_LEVELS = ("debug", "info", "warning", "error")
Config = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", envvar=CONFIG)]


@cache
def settings_of(config: Path | None) -> Settings:
    """load_settings, called once per command: a pipe can be read only once."""
    return load_settings(config)


def run(
    config: Config = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no event lines on stderr.")] = False,
    log_level: Annotated[
        str,
        typer.Option(
            "--log-level",
            parser=one_of(LOG_LEVELS),
            metavar="LEVEL",
            help="What is logged: debug, info, warning or error.",
        ),
    ] = "warning",
) -> None:
    """Load the programs unless they are loaded, and run the agent until SIGINT or SIGTERM."""
    import agent.daemon

    raise typer.Exit(agent.daemon.main(settings_of(config), quiet, config or DEFAULT_PATH, log_level))


def load(config: Config = None) -> None:
    """Load, attach and pin the kernel programs, then exit."""
    from agent.daemon.startup.process import load_alone

    manifest = load_alone(settings_of(config), config or DEFAULT_PATH)
    for hook, rung in manifest.hooks.items():
        print(f"{hook:8} {rung}")


def unload(
    config: Config = None,
    all_versions: Annotated[
        bool, typer.Option("--all", help="Also remove what other versions of licet have pinned.")
    ] = False,
) -> None:
    """Unload every program, map and link, and end the daemon. Its counters are lost. Prints what was
    removed."""
    from agent.daemon.enforcement.packet_gate import let_go
    from agent.daemon.startup.process import stopped
    from agent.kernel.loading import supervisor as kernel

    settings = settings_of(config)
    kernel.require_root()
    with stopped(settings) as pid:
        if pid:
            print(f"ended the daemon (pid {pid})")
        let_go(settings)
        removed = kernel.unload(settings, all_versions=all_versions)
    if any(removed.values()):
        what = ", ".join(counted(count, kind.removesuffix("s")) for kind, count in removed.items())
        print(f"removed {what} below {settings.paths.pins}, and the tc filters on interfaces, if any")
        print("nothing is counted or refused any more; the counters are lost")
    else:
        print(f"nothing was loaded below {settings.paths.pins}")


def version() -> None:
    """Print the version."""
    print(agent.__version__)
