"""Settings of ``extract/remove.py``, and what it does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ...core.alone import alone_in
from ...core.errors import ExitCode, UsageError
from ...core.ids import read_ids, some_of
from ..store import REMOVING, FeatureStore
from .removal import plan_removal, remove
from .removed import read_removed


@dataclass(frozen=True, kw_only=True)
class RemoveConfig:
    """Take videos out of a feature store: their features leave the disk, and later runs keep them out.

    Blocks that hold one are written anew without it; nothing else changes. A removal that was stopped goes on with the
    same command, also without ids. Ends with 1 when an id is unknown; the others are taken out all the same. Shards,
    other stores and search indexes made from this store keep what they hold: see shards/remove.py, and build the index
    again."""

    features: Path
    """The feature store."""

    video_ids: tuple[str, ...] = ()
    """Ids to take out."""

    ids_file: Path | None = None
    """Text file with an id a line."""

    dry_run: bool = False
    """Say what would be written anew, and stop."""

    def __post_init__(self) -> None:
        if not self.video_ids and self.ids_file is None and not (self.features / REMOVING).exists():
            raise UsageError("video_ids: give ids with --video-ids, or a file of them with --ids-file")


def run_remove(config: RemoveConfig) -> int:
    """Do what ``extract/remove.py`` was asked; returns its exit code."""
    wanted = {*config.video_ids, *(read_ids(config.ids_file) if config.ids_file else ())}
    if config.dry_run:
        plan = plan_removal(config.features, wanted)
        print(
            f"{len(plan.known)} of {len(wanted)} ids are known, {plan.with_features} videos with features to take out; "
            f"{len(plan.blocks)} blocks of {plan.bytes / 1e6:.1f} MB in all would be written anew"
        )
        return ExitCode.OK
    with alone_in(config.features):
        plan = remove(config.features, wanted)
        store = FeatureStore.open(config.features)
    print(f"taken out: {plan.with_features} videos; written anew: {', '.join(plan.blocks) or 'no block'}")
    print(f"left: {len(store)} videos, {len(store.rejects)} without features; {len(read_removed(store.path))} kept out")
    if plan.unknown:
        shown = some_of(plan.unknown)
        print(f"error: {len(plan.unknown)} ids have no row in {config.features}: {shown}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK
