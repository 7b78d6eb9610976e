"""The ``fastseg`` command. Every import that costs time waits for the command that needs it."""

from fastseg.cli.commands import app, main

__all__ = ["app", "main"]
