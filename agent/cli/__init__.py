"""The command line: one typer application, with one file per group of commands."""

from agent.cli.app import main

__all__ = ["main"]
