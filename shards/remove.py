#!/usr/bin/env python3
"""Command: take videos out of a folder of shards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from reelkin.core.alone import alone_in
from reelkin.core.config import command, parse
from reelkin.core.errors import ExitCode, UsageError
from reelkin.core.ids import read_ids, some_of
from reelkin.shards.packing.removal import find, remove


@dataclass(frozen=True)
class RemoveConfig:
    """Take videos out of a folder of shards: their bytes leave the disk, and later builds keep them out.

    Shards that held one are written anew without it; nothing else changes. A removal that was stopped goes on with the
    same command. Ends with 1 when an id is unknown; the others are taken out all the same."""

    folder: tyro.conf.Positional[Path]
    """The folder that shards/build.py wrote."""

    video_ids: tuple[str, ...] = ()
    """Ids to take out."""

    ids_file: Path | None = None
    """Text file with an id a line."""

    dry_run: bool = False
    """Say which shards would be written anew, and stop."""

    def __post_init__(self) -> None:
        if not self.video_ids and self.ids_file is None:
            raise UsageError("video_ids: give ids with --video-ids, or a file of them with --ids-file")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    example = "shards/remove.py shards --video-ids clip7 clip9"
    config = parse(RemoveConfig, argv, prog="shards/remove.py", example=example)
    wanted = [*config.video_ids, *(read_ids(config.ids_file) if config.ids_file else ())]
    if config.dry_run:
        found = find(config.folder, wanted)
        known = set().union(*found.values())
        print(f"{len(known)} of {len(set(wanted))} ids are known; {len(found)} shards would be written anew")
        return ExitCode.OK
    with alone_in(config.folder):
        removal = remove(config.folder, wanted)
    print(f"taken out: {len(removal.removed)} videos; written anew: {', '.join(removal.shards) or 'no shard'}")
    print(f"left: {removal.outcome}")
    if removal.unknown:
        shown = some_of(removal.unknown)
        print(f"error: {len(removal.unknown)} ids have no row in {config.folder}: {shown}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
