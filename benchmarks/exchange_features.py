#!/usr/bin/env python3
"""Importing and exporting features, against loops that only read and write the same files with h5py and numpy.

    python benchmarks/exchange_features.py --videos 5000

Ratios above 1 are faster than the bare loop. Peak memory is that of the import alone, beside what the process had.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reelkin.extract.exchange.exporting import export_features
from reelkin.extract.exchange.importing import Import, Origin, open_source


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def read_hdf5(path: Path) -> None:
    """Every dataset of a flat file."""
    with h5py.File(path, "r") as file:
        for name in file:
            file[name][:]


def read_npy(path: Path) -> None:
    """Every file of a folder."""
    for file in sorted(path.rglob("*.npy")):
        np.load(file)


def read_npz(path: Path) -> None:
    """All three arrays."""
    with np.load(path) as data:
        for name in data.files:
            data[name]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5_000)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--memory", action="store_true", help="measure memory too; slow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = np.random.default_rng(0).normal(size=(options.frames, options.dim)).astype(np.float32)

        def write() -> None:
            with h5py.File(folder / "in.hdf5", "w") as file:
                for number in range(options.videos):
                    file.create_dataset(f"{number:07d}_a1b2c3d4", data=one)

        written, _ = timed(write)
        source = folder / "in.hdf5"
        for layout, read in (("hdf5", read_hdf5), ("npz", read_npz), ("npy", read_npy)):
            bare = min(timed(lambda source=source, read=read: read(source))[0] for _ in range(2))
            job = Import(open_source(source), folder / f"store-{layout}", Origin({"name": "x"}, {}))
            if options.memory:
                tracemalloc.start()
            seconds, store = timed(job.run)
            told = f"; peak {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB" if options.memory else ""
            tracemalloc.stop()
            print(
                f"{layout} import: {options.videos / seconds:.0f} videos/s, {bare / seconds:.2f} of bare reading{told}"
            )
            following = {"hdf5": "npz", "npz": "npy", "npy": "hdf5"}[layout]
            source = folder / f"out.{following}" if following != "npy" else folder / "out"
            seconds, _ = timed(lambda store=store, to=source, layout=following: export_features(store, to, layout))
            rate = f"{written / seconds:.2f} of h5py's writing"
            print(f"{following} export: {options.videos / seconds:.0f} videos/s, {rate}", flush=True)


if __name__ == "__main__":
    main()
