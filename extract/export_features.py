#!/usr/bin/env python3
"""Write a feature store's features in the layouts that others read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# A file run as a script puts its own folder first on the path; modules here must not hide others'.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

from reelkin.core.config import command, parse
from reelkin.core.errors import ExitCode
from reelkin.core.ids import read_ids
from reelkin.extract.exchange.exporting import Layout, export_features
from reelkin.extract.store import FeatureStore

EXAMPLE = "extract/export_features.py --features store --to features.hdf5 --layout hdf5"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a feature store's features in the layouts that others read: HDF5 keyed by video id, a folder of .npy files,
    or an .npz of the Video Similarity Challenge."""

    features: Path
    """The feature store."""

    to: Path
    """File (hdf5, npz) or folder (npy) to write."""

    layout: Layout
    """hdf5: a dataset [T, D] per video; npy: a file per video; npz: video_ids, features, timestamps of all frames."""

    dtype: Literal["float16", "float32"] = "float32"
    """float32 is what published readers expect; float16 takes half the room. Both hold the store's numbers exactly."""

    ids: Path | None = None
    """File with one video id a line: these only, in this order. Default: all."""

    dry_run: bool = False
    """Say how many bytes it would be, and stop."""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and export; the exit code says how it ended."""
    config = parse(ExportConfig, argv, prog="extract/export_features.py", example=EXAMPLE)
    store = FeatureStore.open(config.features)
    ids = None if config.ids is None else read_ids(config.ids)
    if config.dry_run:
        known = [video_id for video_id in (store.video_ids if ids is None else ids) if video_id in store]
        frames = sum(map(store.num_frames, known))
        size = frames * (store.dim * (2 if config.dtype == "float16" else 4) + 8)
        print(f"{len(known)} videos, {frames} frames: about {size / 1e6:.1f} MB")
        return ExitCode.OK
    count = export_features(store, config.to, config.layout, config.dtype, ids)
    print(f"{count} videos of {store.dim} dimensions\nwritten: {config.to}")
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
