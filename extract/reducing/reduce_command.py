"""Settings of ``extract/reduce.py``, and what it does."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.cores import use_share_of_cores
from ...core.engine import start
from ...core.errors import ExitCode, UsageError
from ...core.logs import setup_logging
from ..store import FeatureStore
from .applying import Reduction, apply_to_store


@dataclass(frozen=True, kw_only=True)
class ReduceConfig:
    """Apply a PCA to the features of a store and write another store. A stopped run goes on from there.

    Whether the features are whitened is up to the PCA (extract/fit_pca.py --no-whiten): queries, indexes and models
    know a store's PCA by its hash, so that there is no second place where this could be said.
    """

    features: Path
    """A feature store that was made without a PCA."""

    pca: Path
    """PCA file from extract/fit_pca.py."""

    output: Path
    """The store to write."""

    limit: int | None = None
    """Only the first so many videos; default all."""

    rebuild: bool = False
    """Replace features in the output folder that were made with other settings."""

    dry_run: bool = False
    """Print counts and disk, and stop."""

    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """How several processes work together; auto goes by the launcher (horovodrun, torchrun, or none)."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit: {self.limit} is below 1; leave it out to take every video")
        if self.features.resolve() == self.output.resolve():
            raise UsageError("output: must be another folder than --features")


def run_reduce(config: ReduceConfig) -> int:
    """Do what ``extract/reduce.py`` was asked; returns its exit code."""
    with start(config.backend) as engine:
        setup_logging(engine.rank)
        use_share_of_cores()
        began = time.monotonic()
        source = FeatureStore.open(config.features)
        if config.dry_run:
            job = Reduction.plan(source, config.pca, config.output, config.limit)
            if engine.is_main:
                print(_forecast(job, config.rebuild), flush=True)
            return ExitCode.OK
        store = apply_to_store(source, config.pca, config.output, engine, rebuild=config.rebuild, limit=config.limit)
        if engine.is_main:
            frames = sum(block.num_frames for block in store.blocks)
            print(
                f"{len(store)} videos, {frames} frames: {source.dim} -> {store.dim} dimensions; {len(store.rejects)} "
                f"without features; {time.monotonic() - began:.1f} s\n"
                f"written: {config.output}/store.json, manifest.parquet, {len(store.blocks)} blocks",
                flush=True,
            )
    return ExitCode.OK


def _forecast(job: Reduction, rebuild: bool) -> str:
    """Counts and disk."""
    todo = job.unfinished(rebuild)
    videos = sum(map(len, job.members.values()))
    there = next(path for path in (job.output, *job.output.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    return (
        f"{videos} videos in {len(job.members)} blocks, {job.store.dim} -> {job.pca.dim} dimensions; {len(todo)} "
        f"blocks to do\ndisk: {job.bytes / 1e6:.1f} MB when all are done; {free / 1e6:.0f} MB are free"
    )
