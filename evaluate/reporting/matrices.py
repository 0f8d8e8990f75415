"""Similarity matrices of two videos' frames as small pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST_SIDE = 240
"""Pixels of a picture; of longer videos a pixel shows the best of several frames."""
SMALLEST_SIDE = 288
"""Short videos' pictures are drawn larger, with about this many pixels on the longer side: as wide as a column."""
LARGEST_CELL = 24
"""Pixels of one pair of frames at most."""

Matrices = Callable[[str, str], NDArray[np.floating] | None]
"""(query id, video id) -> similarities of frames [Tq, Tv]; None if they cannot be had."""


@dataclass(frozen=True)
class MatrixPicture:
    """A matrix as a PNG data address, with the numbers that a caption needs.

    Attributes:
        address: the picture, query from top to bottom.
        rows, columns: frames of the query and of the video.
        low, high: similarities of the darkest and of the brightest colour.
    """

    address: str
    rows: int
    columns: int
    low: float
    high: float


def matrix_picture(matrix_QV: NDArray[np.floating], low: float, high: float) -> MatrixPicture:
    """The picture of a matrix [Tq, Tv]; ``low`` to ``high`` is the range of its colours."""
    from matplotlib import colormaps
    from PIL import Image

    rows, columns = matrix_QV.shape
    small = pooled(matrix_QV)
    share = np.clip((small - low) / max(high - low, 1e-9), 0.0, 1.0)
    pixels = colormaps["viridis"](share, bytes=True)[..., :3]
    larger = min(LARGEST_CELL, max(1, SMALLEST_SIDE // max(small.shape)))
    pixels = pixels.repeat(larger, axis=0).repeat(larger, axis=1)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, format="PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
    return MatrixPicture(address, rows, columns, low, high)


def pooled(matrix_QV: NDArray[np.floating]) -> NDArray[np.floating]:
    """The matrix with at most `LONGEST_SIDE` rows and columns, each cell the largest of those it stands for: a
    diagonal stays a line."""
    for axis in (0, 1):
        length = matrix_QV.shape[axis]
        if length > LONGEST_SIDE:
            begins = np.arange(LONGEST_SIDE) * length // LONGEST_SIDE
            matrix_QV = np.maximum.reduceat(matrix_QV, begins, axis=axis)
    return matrix_QV
