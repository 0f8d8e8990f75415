#!/usr/bin/env python3
"""Command: make procedural scenes (see scene_set.py for the settings)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, parse
from reelkin.core.errors import ExitCode
from reelkin.shards.painting.scene_set import ScenesConfig, describe, write_scenes


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    config = parse(ScenesConfig, argv, prog="shards/scenes.py", example="shards/scenes.py --output scenes --count 24")
    if config.dry_run:
        print(describe(config))
        return ExitCode.OK
    rows = write_scenes(config)
    megabytes = sum(int(row["bytes"]) for row in rows) / 1e6
    print(f"{len(rows)} scenes, {megabytes:.1f} MB, listed in {config.output / 'scenes.csv'}")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
