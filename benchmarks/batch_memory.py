#!/usr/bin/env python3
"""Host memory of batches made ahead: 64 anchors with 16 drawn negatives each, all of 300 frames of 1024 dimensions.

    python benchmarks/batch_memory.py --workers 1 4

A feature store (float16) is made in a temporary folder; batches are made ahead as in training, by so many threads, and
each is held for a while, as a step would. Printed: the peak of the process's own memory (not of mapped files) above
what it had before the first batch. Each number of threads runs in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from reelkin.core.engine import start
from reelkin.extract.store import write_store
from reelkin.train.data.loading import prefetched
from reelkin.train.data.sources import open_features
from reelkin.train.recipes.tca import TcaRecipe, build

PAIRS, BACKGROUND, FRAMES, DIM = 64, 100, 300, 1024
HELD_SECONDS = 3.0
"""Of each batch, so that the threads come as far ahead as they may."""


def own_bytes() -> int:
    """Memory of this process that belongs to no file."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(folder: Path, workers: int) -> None:
    """Make three batches and print the peak."""
    config = TcaRecipe(
        features=folder / "store", pairs=folder / "pairs.csv", output=folder / "run", batch_size=PAIRS,
        negatives_per_anchor=16, max_frames=FRAMES, num_workers=workers, feature_edits="none", virtual_scenes=0.0,
    )  # fmt: skip
    with start("single") as engine:
        task = build(config, open_features(config.features), engine).trainer.task
    before, peak, done = own_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    batches = prefetched(task.builder, range(20))  # type: ignore[attr-defined]
    for _ in range(3):
        frames = next(batches).negatives.frames  # type: ignore[union-attr]
        time.sleep(HELD_SECONDS)
    batches.close()
    done.set()
    watcher.join()
    held = f"{frames.nbytes / 1e9:.2f} GB of {frames.dtype} drawn negatives a batch"
    print(f"{workers} threads: {held}, peak {(peak - before) / 1e9:.2f} GB", flush=True)


def main() -> None:
    """Make the store, then measure each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4], help="threads that make batches")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        return measure(options.folder, options.workers[0])
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        rows = (rng.standard_normal((FRAMES, DIM), np.float32) for _ in range(2 * PAIRS + BACKGROUND))
        videos = ((f"v{n:03d}", (each, np.arange(float(FRAMES)))) for n, each in enumerate(rows))
        write_store(Path(scratch, "store"), videos, {})
        pairs = "".join(f"v{2 * n:03d},v{2 * n + 1:03d}\n" for n in range(PAIRS))
        Path(scratch, "pairs.csv").write_text(f"query,video\n{pairs}", encoding="utf-8")
        for workers in options.workers:
            line = [sys.executable, __file__, "--folder", scratch, "--workers", str(workers)]
            subprocess.run(line, check=True)


if __name__ == "__main__":
    main()
