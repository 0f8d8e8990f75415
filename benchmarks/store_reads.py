#!/usr/bin/env python3
"""Random reads of videos from a feature store, against a plain numpy memory map of the same numbers.

    python benchmarks/store_reads.py
    python benchmarks/store_reads.py --open 1000000      # opening a store of a million videos: seconds and memory

The page cache is warm: both sides read the same shuffled videos in turns, and the best of several turns counts. The
peer knows where each video lies (a list of offsets by position) and does nothing but slice and copy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from reelkin.extract.storage.rows import SCHEMA
from reelkin.extract.store import FeatureStore, publish_store, write_block, write_store

SHAPES = ((10_000, 60, 1024), (10_000, 60, 512), (2_000, 60, 3840), (20_000, 8, 512), (200, 3600, 1024))
PER_BLOCK = 1000
OPEN = """
import sys, time
from reelkin.extract.store import FeatureStore
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
kilobytes = peak()
began = time.perf_counter()
store = FeatureStore.open(sys.argv[1])
opened = time.perf_counter()
store.features(sys.argv[2])
read = time.perf_counter()
more = peak() - kilobytes
print(f"open {opened - began:.2f} s, first video {read - opened:.2f} s, {more / 1e3:.0f} MB beside the imports")
"""


def best(turns: int, *sides: Callable[[], object]) -> list[float]:
    """Best seconds of each side, measured in turns."""
    seconds = [float("inf")] * len(sides)
    for _ in range(turns):
        for number, side in enumerate(sides):
            began = time.perf_counter()
            side()
            seconds[number] = min(seconds[number], time.perf_counter() - began)
    return seconds


def compare(folder: Path, num_videos: int, frames: int, dim: int, turns: int) -> None:
    """Print the ratios of one shape."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(frames, dim)).astype(np.float16)
    lengths = rng.integers(max(1, frames // 2), frames + 1, num_videos)
    times = np.arange(float(frames))
    pairs = ((f"{number:07d}_a1b2c3d4e5f", (one[:count], times[:count])) for number, count in enumerate(lengths))
    write_store(folder / "store", pairs, {}, block_bytes=256 << 20)
    np.concatenate([one[:count] for count in lengths]).tofile(folder / "plain")
    store = FeatureStore.open(folder / "store")
    plain = np.memmap(folder / "plain", np.float16, "r").reshape(-1, dim)
    ends = np.cumsum(lengths).tolist()
    begins = [0, *ends[:-1]]
    order = rng.permutation(num_videos)[: max(200, min(num_videos, (512 << 20) // (frames * dim * 2)))].tolist()
    names = [store.video_ids[number] for number in order]

    def copies() -> None:
        for name in names:
            store.features(name)

    def plain_copies() -> None:
        for number in order:
            np.array(plain[begins[number] : ends[number]])

    def sums() -> None:
        for name in names:
            store.features(name, copy=False).view(np.uint16).max()

    def plain_sums() -> None:
        for number in order:
            plain[begins[number] : ends[number]].view(np.uint16).max()

    def views() -> None:
        for name in names:
            store.features(name, copy=False)

    def plain_views() -> None:
        for number in order:
            plain[begins[number] : ends[number]]

    copies()
    plain_copies()
    seconds = best(turns, copies, plain_copies, sums, plain_sums, views, plain_views)
    rate = lengths[order].sum() * dim * 2 / seconds[0] / 1e9
    ratios = [seconds[n + 1] / seconds[n] for n in (0, 2, 4)]
    print(
        f"{num_videos} videos of up to {frames} x {dim}: copies {ratios[0]:.2f} of the map's speed ({rate:.1f} GB/s), "
        f"views read once {ratios[1]:.2f}, views alone {ratios[2]:.2f} ({seconds[4] / len(names) * 1e6:.2f} us)",
        flush=True,
    )


def measure_open(folder: Path, num_videos: int) -> None:
    """Print what opening a store of so many videos costs, in a process of its own."""
    matrices, times = [np.zeros((1, 8), np.float16)] * PER_BLOCK, [np.zeros(1)] * PER_BLOCK
    first = write_block(folder / "features-000000.safetensors", matrices, times, 8)
    blocks = []
    for number in range(num_videos // PER_BLOCK):
        name = f"features-{number:06d}.safetensors"
        if number:
            (folder / name).hardlink_to(folder / first.name)
        blocks.append(type(first)(name, first.bytes, first.sha256, first.num_videos, first.num_frames))
    rng = np.random.default_rng(0)
    ids = [rng.bytes(8).hex() for _ in range(len(blocks) * PER_BLOCK)]
    count = len(ids)
    constant = {"status": "ok", "reason": "", "detail": "", "decoder": "pyav"}
    columns = {
        **{name: pa.repeat(value, count) for name, value in constant.items()},
        "video_id": pa.array(ids),
        "block": pa.array(np.repeat([block.name for block in blocks], PER_BLOCK)),
        "row": pa.array(np.arange(count) % PER_BLOCK),
        "num_frames": pa.repeat(1, count),
        "duration_seconds": pa.array(rng.uniform(1, 600, count)),
    }
    publish_store(folder, 8, {}, blocks, pa.table({name: columns[name] for name in SCHEMA.names}))
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", OPEN, str(folder), ids[-1]], capture_output=True, check=True)
        print(f"{count} videos in {len(blocks)} blocks: {done.stdout.decode().strip()}", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--open", type=int, default=0, metavar="VIDEOS")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    if options.open:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            measure_open(Path(name), options.open)
        return
    for shape in SHAPES:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            compare(Path(name), *shape, options.turns)


if __name__ == "__main__":
    main()
