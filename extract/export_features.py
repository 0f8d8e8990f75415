#!/usr/bin/env python3
"""Write a feature store's features in the layouts that others read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.exchange.export_command import ExportConfig, run_export

EXAMPLE = "extract/export_features.py --features store --to features.hdf5 --layout hdf5"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and export; the exit code says how it ended."""
    return run_export(parse(ExportConfig, argv, prog="extract/export_features.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
