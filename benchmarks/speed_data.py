"""Made features for train_speed.py: the same videos as a feature store, as the published HDF5 file, and their pairs."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from reelkin.extract.store import write_store

MEAN_SECONDS = {"pair": 180.0, "background": 73.0}
"""Mean lengths of VCDB's core and background videos: about 27 hours in 528, and about 2,000 in 100,000."""
SPREAD = 0.7


@dataclass(frozen=True)
class SpeedData:
    """Where the features are, and who is who."""

    store: Path
    hdf5: Path
    pickle: Path
    pairs: list[tuple[str, str]]
    background: list[str]


def read_data(folder: Path) -> SpeedData:
    """What `make_data` left in a folder."""
    names = json.loads((folder / "names.json").read_text())
    pairs = [(first, second) for first, second in names["pairs"]]
    return SpeedData(folder / "store", folder / "features.h5", folder / "pairs.pickle", pairs, names["background"])


def frames_of(kind: str, options: argparse.Namespace, rng: np.random.Generator) -> int:
    """Frames at one a second of a video: log-normal around the mean, or all the padding."""
    if options.lengths == "full":
        return int(options.padding)
    drawn = rng.lognormal(np.log(MEAN_SECONDS[kind] * options.padding / 300) - SPREAD**2 / 2, SPREAD)
    return max(1, round(drawn))


def make_data(folder: Path, options: argparse.Namespace) -> None:
    """Write it, unless the same is there."""
    wanted = {name: getattr(options, name) for name in ("lengths", "pairs", "background", "dim", "padding")}
    if (folder / "names.json").exists() and json.loads((folder / "names.json").read_text())["wanted"] == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pairs = [(f"pair{number:05d}a", f"pair{number:05d}b") for number in range(options.pairs)]
    background = [f"background{number:06d}" for number in range(options.background)]
    kinds = {name: "pair" for pair in pairs for name in pair} | dict.fromkeys(background, "background")

    def videos() -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
        for name, kind in kinds.items():
            rows = rng.standard_normal((frames_of(kind, options, rng), options.dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            file.create_dataset(name, data=rows)
            yield name, (rows.astype(np.float16), np.arange(float(len(rows))))

    with h5py.File(folder / "features.h5", "w") as file:
        write_store(folder / "store", videos(), {}, block_bytes=256 << 20)
    annotation = {"video_pairs": [{"videos": list(pair), "overlap": [1.0, 1.0]} for pair in pairs], "negs": background}
    (folder / "pairs.pickle").write_bytes(pickle.dumps({**annotation, "index": list(kinds)}))
    (folder / "names.json").write_text(json.dumps({"wanted": wanted, "pairs": pairs, "background": background}))
