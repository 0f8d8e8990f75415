"""Settings of ``extract/merge.py``, and what it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.alone import alone_in
from ...core.errors import ExitCode, UsageError
from ..store import FeatureStore
from .merging import merge, plan_merge


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Join feature stores that were made alike (encoder, PCA, sampling) into one; they stay as they are.

    Blocks become hard links where all lie on one disk: no room, and seconds. To add another store later, name it
    behind the others and keep --output: only what is new is done. Videos that were taken out of --output stay out; a
    video that is to leave the disk has to be taken out of every store that holds it."""

    features: tuple[Path, ...]
    """The stores."""

    output: Path
    """The store to write."""

    skip_duplicates: bool = False
    """Of a video that several stores have, take the first store's. Default: refuse."""

    dry_run: bool = False
    """Print counts, and stop."""

    def __post_init__(self) -> None:
        if len(self.features) < 2:
            raise UsageError("features: name two stores or more")
        if len({path.resolve() for path in self.features}) < len(self.features):
            raise UsageError("features: a store is named twice")


def run_merge(config: MergeConfig) -> int:
    """Do what ``extract/merge.py`` was asked; returns its exit code."""
    sources = [FeatureStore.open(path) for path in config.features]
    if config.dry_run:
        job = plan_merge(sources, config.output)
        videos = sum(len(part.ids) for part in job.parts)
        print(
            f"{videos} videos in {len(job.parts)} blocks, {len(job.missing)} of them to do; {len(job.duplicates)} "
            f"videos in more than one store, {len(job.removed)} kept out"
        )
        return ExitCode.OK
    with alone_in(config.output):
        store = merge(plan_merge(sources, config.output), skip_duplicates=config.skip_duplicates)
    print(f"{len(store)} videos of {store.dim} dimensions; {len(store.rejects)} without features")
    print(f"written: {config.output}/store.json, manifest.parquet, {len(store.blocks)} blocks")
    return ExitCode.OK
