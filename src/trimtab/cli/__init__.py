"""The command line: one verb a file, each one call into a room.

Nothing heavy is imported until a verb runs, so `trimtab --help` stays quick.
"""

from trimtab.cli.app import main

__all__ = ["main"]
