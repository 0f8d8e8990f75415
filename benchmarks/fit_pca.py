#!/usr/bin/env python3
"""Adding frames to a PCA's covariance, against the bare float64 product of the same size.

    python benchmarks/fit_pca.py --dim 3840

Above 1 the fit is faster than one dense product X^T X: the scatter is symmetric, and only half of it is computed; the
other costs (float16 to float64, means, the test for values that are not finite) come on top. Solving is timed once.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from reelkin.extract.pca import CovarianceSum


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=3840)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--frames-per-video", type=int, default=10)
    parser.add_argument("--solve", action="store_true", help="time the eigenvectors too")
    options = parser.parse_args()
    frames = 2 * CovarianceSum.BATCH
    rng = np.random.default_rng(0)
    x = rng.normal(size=(frames, options.dim)).astype(np.float16)
    parts = np.array_split(x, frames // options.frames_per_video)
    wide = torch.from_numpy(x.astype(np.float64)).split(CovarianceSum.BATCH)
    product = torch.zeros((options.dim, options.dim), dtype=torch.float64)
    total = CovarianceSum(options.dim)
    seconds = [float("inf")] * 2
    for _ in range(options.turns):
        began = time.perf_counter()
        for part in parts:
            total.add(part)
        total.flush()
        seconds[0] = min(seconds[0], time.perf_counter() - began)
        began = time.perf_counter()
        for batch in wide:
            product.addmm_(batch.T, batch)
        seconds[1] = min(seconds[1], time.perf_counter() - began)
    print(
        f"{options.dim} dimensions: {frames / seconds[0]:.0f} frames/s, {seconds[1] / seconds[0]:.2f} of the bare "
        f"product's speed ({2e-9 * frames * options.dim**2 / seconds[1]:.0f} GFLOP/s)"
    )
    if options.solve:
        began = time.perf_counter()
        total.solve(min(1024, options.dim // 2))
        print(f"eigenvectors: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
