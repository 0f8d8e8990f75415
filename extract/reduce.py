#!/usr/bin/env python3
"""Apply a PCA to a feature store, without decoding again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.reducing.reduce_command import ReduceConfig, run_reduce

EXAMPLE = "extract/reduce.py --features store --pca pca.safetensors --output store1024"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and apply the PCA; the exit code says how it ended."""
    return run_reduce(parse(ReduceConfig, argv, prog="extract/reduce.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
