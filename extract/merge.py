#!/usr/bin/env python3
"""Join feature stores into one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.storage.merge_command import MergeConfig, run_merge

EXAMPLE = "extract/merge.py --features store more --output all"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and join; the exit code says how it ended."""
    return run_merge(parse(MergeConfig, argv, prog="extract/merge.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
