"""Logging for the commands: one line an event on stderr, with the rank. Libraries only call ``logging.getLogger``."""

from __future__ import annotations

import logging
import sys


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
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname).1s{where} %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if rank else logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
