"""Logging for the commands: one line an event on stderr, with the rank. Libraries only call ``logging.getLogger``."""

from __future__ import annotations

import logging
import sys


def one_line(text: str) -> str:
    """``text`` with everything that is not printable written as an escape: line ends, terminal commands, undecodable
    bytes, marks that turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Formatter(logging.Formatter):
    """A name from outside can neither command the terminal nor pass for another line: further lines are indented."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(one_line(line) for line in super().format(record).split("\n"))


def setup_logging(rank: int = 0, *, verbose: bool = False) -> None:
    """Configure Reelkin's loggers once, for a command.

    Args:
        rank: written into every line; ranks above 0 show warnings only.
        verbose: show debug lines too (rank 0).
    """
    logger = logging.getLogger("reelkin")
    logger.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    where = f" rank {rank}" if rank else ""
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname).1s{where} %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if rank else logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
