#!/usr/bin/env python3
"""Compare two systems on one benchmark, query by query, with paired bootstrap intervals."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, launched_rank, parse
from reelkin.core.errors import ExitCode
from reelkin.evaluate.comparing.session import CompareConfig, compare

EXAMPLE = "evaluate/compare.py ours/results.json theirs/results.json"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and compare; the exit code says how it ended."""
    config = parse(CompareConfig, argv, prog="evaluate/compare.py", example=EXAMPLE)
    if launched_rank() == 0:
        print(compare(config).text())
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
