"""Which part of a picture an encoder sees: the size it is scaled to, and the crop. Without torch: children need it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Scaling = Literal["area", "tca"]

WIDEST = 4
"""Without a crop, a picture longer than this many short sides is cut to it: its cost stays bounded."""


@dataclass(frozen=True)
class Geometry:
    """Size and crop of pictures.

    Attributes:
        short_side: pixels of the scaled short side; the other side follows, so that nothing is distorted.
        crop: side of the centred square that is kept, in pixels; 0 keeps the whole picture, up to `WIDEST` short sides.
        scaling: "area" averages when shrinking; "tca" is OpenCV's bicubic, as in the published TCA code.
    """

    short_side: int
    crop: int = 0
    scaling: Scaling = "area"

    def as_dict(self) -> dict[str, Any]:
        """For a message to a child."""
        return asdict(self)

    def kept(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what is kept of a scaled picture. Raises ValueError when the crop does not fit."""
        if not self.crop:
            longest = WIDEST * min(height, width)
            return min(height, longest), min(width, longest)
        if self.crop > min(height, width):
            raise ValueError(f"a picture of {height} x {width} is smaller than the crop {self.crop}")
        return self.crop, self.crop

    def cut(self, pictures: np.ndarray) -> np.ndarray:
        """[..., H, W, 3] -> a view [..., h, w, 3] of the centre; offsets are floor((size - kept) / 2)."""
        height, width = pictures.shape[-3:-1]
        keep_h, keep_w = self.kept(height, width)
        top, left = (height - keep_h) // 2, (width - keep_w) // 2
        return pictures[..., top : top + keep_h, left : left + keep_w, :]

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest picture that is kept, RGB."""
        return (self.crop**2 or self.short_side**2 * WIDEST) * 3
