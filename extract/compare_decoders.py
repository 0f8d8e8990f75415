#!/usr/bin/env python3
"""Compare what DALI and PyAV decode of videos of your own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.comparison.compare_session import CompareConfig, run_compare

EXAMPLE = "extract/compare_decoders.py --videos clips --device gpu --encoder resnet50 --output decoders.csv"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and compare; the exit code says whether the decoders agree."""
    return run_compare(parse(CompareConfig, argv, prog="extract/compare_decoders.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
