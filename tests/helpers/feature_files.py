"""Features as others write them, with h5py and numpy directly, and their import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reelkin.extract.exchange.importing import Import, Origin, open_source
from reelkin.extract.store import FeatureStore

IDS = ["plain", "1/1_1_Y", "1/1_2_N", "a b", "é'\"", "-x.y.mp4", "中/文"]


def make(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float16)


def videos(ids: list[str] = IDS) -> dict[str, np.ndarray]:
    return {video_id: make(number % 4 + 1, seed=number) for number, video_id in enumerate(ids)}


def take(source: Path, output: Path, **settings: object) -> FeatureStore:
    ids = settings.pop("ids", "path")
    origin = settings.pop("origin", Origin({"name": "theirs"}, {}))
    return Import(open_source(source, ids), output, origin, **settings).run()  # type: ignore[arg-type]


def write_h5(path: Path, arrays: dict[str, np.ndarray], **more: object) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **more)
    return path


def write_npys(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    for name, array in arrays.items():
        (folder / f"{name}.npy").parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", array)
    return folder


def write_npz(path: Path, arrays: dict[str, np.ndarray], times: np.ndarray | None = None) -> Path:
    ids = np.concatenate([np.full(len(array), name) for name, array in arrays.items()])
    seconds = np.concatenate([np.arange(len(array)) for array in arrays.values()]) if times is None else times
    np.savez(path, video_ids=ids, features=np.concatenate(list(arrays.values())), timestamps=seconds)
    return path
