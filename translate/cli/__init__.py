"""The command line: the only wing that prints, and the only one that ends the process."""

from translate.cli.app import main

__all__ = ["main"]
