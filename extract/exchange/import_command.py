"""Settings of ``extract/import_features.py``, and what it does."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ...core.alone import alone_in
from ...core.errors import ExitCode, UsageError
from ...core.logs import setup_logging
from ..store import FeatureStore
from .importing import Import, Origin, Regions, open_source


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a feature store of features that others have extracted; a stopped import goes on from there.

    Reads HDF5 with a dataset per video (TCA, ViSiL, Distill-and-Select, S2VS), a folder of .npy files, one per video,
    and the .npz files of the Video Similarity Challenge. Videos that cannot be used end as rejected rows.
    """

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """File (.h5, .hdf5, .npz, .npy) or folder of .npy files."""

    output: Path
    """The store to write."""

    fps: float | None = None
    """Frames are at k/fps seconds, whatever the source says. Default: the source's times or rate, else 1."""

    encoder_name: str = "imported"
    """What made the features. Stores are compared and joined by it: give features of one kind one name."""

    like: Path | None = None
    """Instead: a feature store. You say that the features were made as its own (encoder, PCA, sampling)."""

    regions: Regions = "refuse"
    """What becomes of several regions a frame ([T, R, D]): one vector of R x D numbers (flatten: nothing is lost), or
    the sum of the regions, of norm 1 (sum: as TCA does)."""

    ids: Literal["path", "name"] = "path"
    """Ids of .npy files: their path below the folder, or their name alone (TCA)."""

    limit: int | None = None
    """Only the first so many videos; default all."""

    max_reject_share: float = 0.5
    """End with exit code 3 when a larger share of the videos cannot be used. The store is complete either way."""

    rebuild: bool = False
    """Replace features in the output folder that were made with other settings."""

    dry_run: bool = False
    """Say what is there, and stop."""

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= 240:
            raise UsageError(f"fps: {self.fps}; give frames per second above 0, at most 240")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit: {self.limit} is below 1; leave it out to take every video")
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share: {self.max_reject_share} is not a share; write 0.05 for 5 %")
        if self.source.resolve() == self.output.resolve():
            raise UsageError("output: must be another folder than --from")
        if self.like is not None and self.encoder_name != "imported":
            raise UsageError("like, encoder_name: give one of them")


def run_import(config: ImportConfig) -> int:
    """Do what ``extract/import_features.py`` was asked; returns its exit code."""
    setup_logging(0)
    began = time.monotonic()
    reader = open_source(config.source, config.ids)
    origin = Origin({"name": config.encoder_name}, {})
    if config.like is not None:
        origin = Origin.like(FeatureStore.open(config.like))
    job = Import(reader, config.output, origin, config.fps, config.regions, config.limit, config.rebuild)
    if config.dry_run:
        print(f"{config.source}: {reader.layout}, {len(reader)} {reader.unit}; most have {list(job.shape())} a frame")
        return ExitCode.OK
    with alone_in(config.output):
        store = job.run()
    frames = sum(block.num_frames for block in store.blocks)
    print(
        f"{len(store)} videos, {frames} frames of {store.dim} dimensions; {len(store.rejects)} rejected; "
        f"{time.monotonic() - began:.1f} s"
    )
    for reason, count in sorted(Counter(row.reason for row in store.rejects).items()):
        print(f"  rejected, {reason}: {count}")
    print(f"written: {config.output}/store.json, manifest.parquet, {len(store.blocks)} blocks")
    share = len(store.rejects) / max(1, len(store) + len(store.rejects))
    if share > config.max_reject_share:
        print(f"error: {share:.0%} rejected, over --max-reject-share {config.max_reject_share:.0%}", file=sys.stderr)
        return ExitCode.REJECTS
    return ExitCode.OK
