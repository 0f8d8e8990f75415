#!/usr/bin/env python3
"""Command: pack videos into shards (see packing/config.py for the settings)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, launched_rank, parse
from reelkin.core.errors import ExitCode
from reelkin.core.logs import setup_logging
from reelkin.shards.packing.building import build, describe
from reelkin.shards.packing.config import BuildConfig


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    config = parse(BuildConfig, argv, prog="shards/build.py", example="shards/build.py --videos FOLDER --output shards")
    setup_logging(launched_rank())
    if config.dry_run:
        if launched_rank() == 0:
            print(describe(config))
        return ExitCode.OK
    outcome = build(config)
    if launched_rank() == 0:
        print(f"{outcome}\nwritten: {config.output}/shards.json, manifest.parquet, clips.parquet")
        if outcome.exit_code == ExitCode.REJECTS:
            budget = f"--max-reject-share {config.max_reject_share:.0%}"
            print(f"error: {outcome.reject_share:.0%} of what was there rejected, over {budget}", file=sys.stderr)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
