#!/usr/bin/env python3
"""Make a feature store of features that others have extracted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.exchange.import_command import ImportConfig, run_import

EXAMPLE = "extract/import_features.py --from vcdb_features.hdf5 --output store --encoder-name resnet50-imac"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and import; the exit code says how it ended."""
    return run_import(parse(ImportConfig, argv, prog="extract/import_features.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
