#!/usr/bin/env python3
"""Find everything in a feature store that is not as it was written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.core.errors import ExitCode
from reelkin.extract.store import FeatureStore


@dataclass(frozen=True)
class VerifyConfig:
    """Verify a feature store: hashes, finite features, times, offsets, and the manifest against the blocks.

    Ends with 0 when everything is whole, with 1 when something is damaged."""

    features: tyro.conf.Positional[Path]
    """The feature store."""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    config = parse(VerifyConfig, argv, prog="extract/verify.py", example="extract/verify.py store")
    store = FeatureStore.open(config.features)
    problems = 0
    for problem in store.problems():
        problems += 1
        print(f"damaged: {problem}", file=sys.stderr, flush=True)
    size = sum(block.bytes for block in store.blocks)
    print(f"{store}: {len(store.blocks)} blocks of {size / 1e6:.1f} MB; {problems} problems")
    return ExitCode.FAILED if problems else ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
