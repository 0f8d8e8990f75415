"""A feature store into the layouts of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ...core.errors import UsageError
from ...core.files import remove_partials, sha256_file
from ...core.progress import Progress
from ..store import FeatureStore
from .hdf5 import write_hdf5
from .items import Writer
from .npy import write_npy
from .npz import write_npz

Layout = Literal["hdf5", "npy", "npz"]


def export_features(
    store: FeatureStore, to: Path, layout: Layout, dtype: str = "float32", ids: Sequence[str] | None = None
) -> int:
    """Write a store's features in another layout; one video is in memory at a time.

    An HDF5 or .npz file appears when it is whole. A folder of .npy files that was stopped goes on. Features that were
    imported from regions and flattened get their regions back.

    Args:
        store: the features.
        to: file or folder to write; an existing file is replaced.
        layout: see the package.
        dtype: "float32", which published readers expect, or "float16", which is what a store holds; both are exact.
        ids: videos to write, in this order; None: all.

    Returns:
        The number of videos written.

    Raises:
        UsageError: an id is not in the store, there is nothing to write, or a folder holds something else.
        ReelkinError: the disk is full.
    """
    ids = store.video_ids if ids is None else list(dict.fromkeys(ids))
    _check(store, to, ids)
    remove_partials(to.parent)
    encoder = store.info.get("encoder") or {}
    regions = encoder.get("regions") if encoder.get("regions_kept") == "flatten" and not store.info.get("pca") else None
    row_shape = (regions, store.dim // regions) if regions else (store.dim,)
    fps = (store.info.get("sampling") or {}).get("fps")
    fps = float(fps) if isinstance(fps, (int, float)) and fps > 0 else None

    def videos() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for video_id in ids:
            yield video_id, store.features(video_id, copy=False).reshape(-1, *row_shape), store.times(video_id)

    if layout == "npz":
        frames = sum(store.num_frames(video_id) for video_id in ids)
        write_npz(to, dtype, videos, list(ids), row_shape, frames)
        return len(ids)

    def write(writer: Writer) -> None:
        with Progress(len(ids), "videos", "exporting") as progress:
            for video_id, features, times in videos():
                told = fps is not None and np.array_equal(times, np.arange(len(times)) / fps)
                writer.add(video_id, features, None if told else times)
                progress.advance()

    if layout == "hdf5":
        with write_hdf5(to, dtype, ids, fps) as writer:
            write(writer)
    else:
        made_from = {"store_sha256": sha256_file(store.path / "store.json"), "videos": len(ids)}
        with write_npy(to, dtype, made_from, fps) as folder:
            write(folder)
    return len(ids)


def _check(store: FeatureStore, to: Path, ids: Sequence[str]) -> None:
    """Raises UsageError when these videos of the store cannot be written there."""
    missing = [video_id for video_id in ids if video_id not in store]
    if missing:
        raise UsageError(f"ids: {len(missing)} of {len(ids)} are not in {store.path} ({missing[0]!r} ...)")
    if not ids:
        raise UsageError(f"features: {store.path} holds no video with features")
    if store.path.resolve() in (to.resolve(), *to.resolve().parents):
        raise UsageError(f"to: {to} lies in the store {store.path}; choose another place")
