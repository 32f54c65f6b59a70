"""The command line, one file for each command."""

from transnext.cli.main import main

__all__ = ["main"]
