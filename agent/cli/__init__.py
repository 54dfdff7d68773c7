"""The command line: one typer application, a file for each group of commands."""

from agent.cli.app import main

__all__ = ["main"]
