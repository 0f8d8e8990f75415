#!/usr/bin/env python3
"""Command: make edited copies of videos (see edit_config.py for the settings, edit_strengths.py for the edits)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, parse
from reelkin.core.logs import setup_logging
from reelkin.shards.editing.config import EditsConfig
from reelkin.shards.editing.edit_set import dry_run_text, make_edits

EXAMPLE = "shards/edits.py --videos scenes --output copies --per-strength 2"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    config = parse(EditsConfig, argv, prog="shards/edits.py", example=EXAMPLE)
    setup_logging()
    if config.dry_run:
        print(dry_run_text(config))
        return 0
    outcome = make_edits(config)
    print(
        f"{outcome.num_copies} copies of {outcome.num_videos - outcome.num_rejected} videos "
        f"({outcome.num_made_now} made now), listed in {config.output / 'edits.csv'}"
    )
    if outcome.num_rejected:
        print(f"{outcome.num_rejected} videos rejected, listed in {config.output / 'rejects.csv'}")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
