#!/usr/bin/env python3
"""Extract frame features from shards into a feature store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.options import ExtractConfig
from reelkin.extract.session import run_extract

EXAMPLE = "horovodrun -np 2 extract/run.py --shards shards --encoder resnet50 --output store"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and extract; the exit code says how it ended."""
    return run_extract(parse(ExtractConfig, argv, prog="extract/run.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
