#!/usr/bin/env python3
"""How fast chamfer similarities are, as a share of what the machine's float32 matrix product reaches in the same run.

    python benchmarks/similarity_speed.py
    python benchmarks/similarity_speed.py --device cuda --side 16384
    python benchmarks/similarity_speed.py --processor     # beside other work: one thread, seconds of the processor

A matrix of Q queries and V targets costs 2 x (all frames of the queries) x (all frames of the targets) x D
floating-point operations, whatever is done with the products; the share is that count over the time taken, over the
rate of a plain product of two blocks of the same widths (torch.mm and numpy's matmul into memory that is there already;
the faster one counts). Sides are measured in turns, and the best turn counts. Beside it stands the plain way: one pair
at a time, ``(q @ t.T).max(1).mean()``, on a part of the pairs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from reelkin.search.similarity import ChamferQueries, cosine, euclidean, unit_rows

CASES = (
    # name, frames of a query, frames of a target (least and most), dimensions, both directions
    ("chamfer", (20, 200), (20, 200), 1024, False),
    ("symmetric chamfer", (20, 200), (20, 200), 1024, True),
    ("chamfer", (20, 200), (20, 200), 512, False),
    ("symmetric chamfer", (20, 200), (20, 200), 512, True),
    ("chamfer", (20, 200), (20, 200), 128, False),
    ("symmetric chamfer", (20, 200), (20, 200), 128, True),
    ("chamfer, short videos", (1, 8), (1, 8), 512, False),
    ("symmetric chamfer, short videos", (1, 8), (1, 8), 512, True),
    ("chamfer, long videos", (3600, 7200), (3600, 7200), 512, False),
    ("symmetric chamfer, long videos", (3600, 7200), (3600, 7200), 512, True),
)


def best_of(
    turns: int, device: torch.device, *sides: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Best seconds of each side, measured in turns after one that warms up."""
    seconds = [float("inf")] * len(sides)
    for turn in range(turns + 1):
        for number, side in enumerate(sides):
            began = clock()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[number] = min(seconds[number], clock() - began)
    return seconds


def made(rng: np.random.Generator, frames: tuple[int, int], dim: int, total: int) -> list[np.ndarray]:
    """Videos of random unit rows, about ``total`` frames in all."""
    videos: list[np.ndarray] = []
    while sum(map(len, videos)) < total:
        videos.append(unit_rows(rng.standard_normal((int(rng.integers(*frames, endpoint=True)), dim), np.float32)))
    return videos


def measure(case: tuple, options: argparse.Namespace, device: torch.device) -> None:
    """Print one line."""
    name, query_frames, target_frames, dim, symmetric = case
    rng = np.random.default_rng(0)
    queries, targets = made(rng, query_frames, dim, options.frames), made(rng, target_frames, dim, 2 * options.frames)
    prepared = ChamferQueries(queries, symmetric=symmetric, max_bytes=options.tile << 20, device=device)
    a, b = (torch.randn(options.side, dim, device=device) for _ in range(2))
    room = torch.empty(options.side, options.side, device=device)
    sides: list[Callable[[], object]] = [
        lambda: prepared.similarities(targets),
        lambda: torch.mm(a, b.T, out=room),
    ]
    if device.type == "cpu":
        sides.append(lambda: np.matmul(a.numpy(), b.numpy().T, out=room.numpy()))
    pairs = [(q, t) for q in queries[:8] for t in targets[:8]]
    q_frames, t_frames = sum(map(len, queries)), sum(map(len, targets))
    if device.type == "cpu" and not symmetric:
        sides.append(lambda: [float((q @ t.T).max(1).mean()) for q, t in pairs])
    seconds = best_of(options.turns, device, *sides, clock=options.clock)
    rate = 2 * q_frames * t_frames * dim / seconds[0]
    matrix = 2 * options.side**2 * dim / min(seconds[1 : 3 if device.type == "cpu" else 2])
    plain = ""
    if len(sides) == 4:
        one_by_one = 2 * sum(len(q) * len(t) for q, t in pairs) * dim / seconds[3]
        plain = f"; {rate / one_by_one:.1f} times one pair at a time"
    print(
        f"{name}, {len(queries)} x {len(targets)} videos of {query_frames[0]} to {query_frames[1]} frames x {dim}: "
        f"{rate / 1e9:.0f} GFLOP/s, {rate / matrix:.2f} of the product's {matrix / 1e9:.0f}{plain}",
        flush=True,
    )


def measure_videos(options: argparse.Namespace, device: torch.device) -> None:
    """Print what comparing video embeddings costs."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((100, 1024), np.float32)
    database = rng.standard_normal((options.videos, 1024), np.float32)
    for name, run in (("cosine", cosine), ("euclidean", euclidean)):
        [seconds] = best_of(
            options.turns, device, lambda run=run: run(queries, database, device=device), clock=options.clock
        )
        print(f"{name}, 100 x {options.videos} embeddings x 1024: {seconds:.2f} s", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8192, help="of the queries; the targets have twice as many")
    parser.add_argument("--side", type=int, default=4096, help="rows of the plain product's two blocks")
    parser.add_argument("--tile", type=int, default=64, help="MiB that a comparison may hold beside the frames")
    parser.add_argument("--videos", type=int, default=50_000, help="of the video embeddings")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processor", action="store_true", help="one thread, and its processor time for the clock's")
    options = parser.parse_args()
    options.clock = time.process_time if options.processor else time.perf_counter
    if options.processor:
        options.threads = 1
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    for case in CASES:
        measure(case, options, device)
    measure_videos(options, device)


if __name__ == "__main__":
    main()
