"""Exact nearest neighbours among many vectors, in blocks: memory is bounded however many there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TILE_BYTES = 64 << 20


def first_neighbours(
    rows: NDArray[np.floating], tile_bytes: int = TILE_BYTES
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each vector, the other one with the largest dot product.

    Args:
        rows: real [N, D], N at least 2; of unit length for cosines.
        tile_bytes: bound on the products (float32) that are held at once.

    Returns:
        Its number int64 [N], the smallest of equals, and the product float32 [N].

    Raises:
        ValueError: there are not two vectors.
    """
    rows_ND = np.asarray(rows, dtype=np.float32)
    count = len(rows_ND)
    if rows_ND.ndim != 2 or count < 2:
        raise ValueError(f"neighbours need at least 2 vectors, got an array of shape {list(rows_ND.shape)}")
    side = max(1, int((tile_bytes / 4) ** 0.5))
    best_N = np.zeros(count, dtype=np.int64)
    product_N = np.full(count, -np.inf, dtype=np.float32)
    for top in range(0, count, side):
        block = slice(top, min(top + side, count))
        for left in range(0, count, side):
            tile = rows_ND[block] @ rows_ND[left : left + side].T
            if left == top:
                np.fill_diagonal(tile, -np.inf)  # itself
            column = tile.argmax(axis=1)
            product = tile[np.arange(len(tile)), column]
            better = product > product_N[block]
            best_N[block] = np.where(better, column + left, best_N[block])
            product_N[block] = np.where(better, product, product_N[block])
    return best_N, product_N
