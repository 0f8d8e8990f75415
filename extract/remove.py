#!/usr/bin/env python3
"""Take videos out of a feature store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.storage.remove_command import RemoveConfig, run_remove

EXAMPLE = "extract/remove.py --features store --video-ids clip7 clip9"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_remove(parse(RemoveConfig, argv, prog="extract/remove.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
