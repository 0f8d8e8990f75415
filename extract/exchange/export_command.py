"""Settings of ``extract/export_features.py``, and what it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.errors import ExitCode
from ...core.ids import read_ids
from ..store import FeatureStore
from .exporting import Layout, export_features


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


def run_export(config: ExportConfig) -> int:
    """Do what ``extract/export_features.py`` was asked; returns its exit code."""
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
