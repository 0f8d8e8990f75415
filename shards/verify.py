#!/usr/bin/env python3
"""Command: find everything in a folder of shards that is not as it was written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from reelkin.core.config import command, parse
from reelkin.core.errors import ExitCode, UsageError
from reelkin.core.files import publish_json
from reelkin.shards.verification import verify_shards


@dataclass(frozen=True)
class VerifyConfig:
    """Verify a folder of shards: counts, sizes, hashes, tar structure, keys, and the tables against the tars.

    Ends with 0 when everything is whole, with 1 when something is damaged."""

    folder: tyro.conf.Positional[Path]
    """The folder that shards/build.py wrote."""

    quick: bool = False
    """Compare sizes, tables and headers, and read no data: a minute for a million clips."""

    workers: int = 0
    """Shards read in parallel; 0 means one per core of this machine."""

    json: Path | None = None
    """Write every problem and every affected video to this file."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UsageError(f"workers: {self.workers} is below 0; 0 chooses by the machine")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    config = parse(VerifyConfig, argv, prog="shards/verify.py", example="shards/verify.py shards --json problems.json")
    report = verify_shards(config.folder, quick=config.quick, workers=config.workers, show_progress=True)
    print("\n".join(report.lines()))
    if config.json is not None:
        publish_json(config.json, report.as_json())
    return ExitCode.FAILED if report.damage else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
