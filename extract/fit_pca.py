#!/usr/bin/env python3
"""Fit a PCA with whitening on the frames of a feature store, or of shards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.extract.options import FitPcaConfig
from reelkin.extract.session import run_fit_pca

EXAMPLE = "extract/fit_pca.py --features store --components 1024 --output pca.safetensors"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and fit; the exit code says how it ended."""
    return run_fit_pca(parse(FitPcaConfig, argv, prog="extract/fit_pca.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
