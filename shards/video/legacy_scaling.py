"""TCA's published resize: OpenCV's ``resize`` with ``INTER_CUBIC`` and one factor for both sides.

Cubic convolution with a = -0.75 over the four nearest pixels, whatever the factor: shrinking skips pixels instead of
averaging them. Weights are rounded to 1/2048 as OpenCV does for bytes, and pixel centres are mapped by the factor
itself, not by the ratio of the rounded sizes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_A = -0.75
_UNITS = 2048  # of a weight: OpenCV's INTER_RESIZE_COEF_SCALE


def resize_cubic(picture: np.ndarray, short_side: int) -> np.ndarray:
    """Scale a picture so that its shorter side has ``short_side`` pixels.

    Args:
        picture: uint8 [H, W, 3].
        short_side: pixels, at least 1.

    Returns:
        uint8 [h, w, 3], min(h, w) = ``short_side``; the other side is rounded to the nearest, halves to even.
    """
    height, width = picture.shape[:2]
    factor = short_side / min(width, height)
    if factor == 1:
        return picture
    rows, row_weights = _taps(height, factor)
    columns, column_weights = _taps(width, factor)
    # Rows first: fewer numbers, and the sums are whole numbers that float32 holds exactly.
    half = sum(picture[rows[k]] * row_weights[k][:, None, None] for k in range(4))
    whole = sum(np.take(half, columns[k], axis=1) * column_weights[k][:, None] for k in range(4))
    return np.clip(np.floor(whole / _UNITS**2 + 0.5), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _taps(size: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """For each output pixel the four input pixels, int64 [4, n], and their weights in units, float32 [4, n]."""
    at = (np.arange(max(1, round(size * factor))) + 0.5) / factor - 0.5
    first = np.floor(at)
    t = (at - first).astype(np.float32)
    before = ((_A * (t + 1) - 5 * _A) * (t + 1) + 8 * _A) * (t + 1) - 4 * _A
    left = ((_A + 2) * t - (_A + 3)) * t * t + 1
    right = ((_A + 2) * (1 - t) - (_A + 3)) * (1 - t) * (1 - t) + 1
    weights = np.stack([before, left, right, 1 - before - left - right])
    pixels = np.clip(first.astype(np.int64) + np.arange(-1, 3)[:, None], 0, size - 1)
    return pixels, np.rint(weights * _UNITS).astype(np.float32)
