"""Edits of the picture itself: place, size, colour, sharpness. Pictures are uint8 [H, W, 3], RGB.

Each edit is prepared once for a size of picture and then applied to every picture of a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from ...core.seeds import generator
from .plan import Edit

MIN_SIDE = 16
"""No edit makes a picture narrower or lower than this many pixels."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class PixelEdit:
    """An edit ready for pictures of one size.

    Attributes:
        width, height: size of the pictures that it gives, pixels.
        apply: takes a picture and its number within the copy, gives the edited picture.
    """

    width: int
    height: int
    apply: Callable[[np.ndarray, int], np.ndarray]


def crop(width: int, height: int, edit: Edit) -> PixelEdit:
    """Keep a rectangle."""
    new_width = min(width, max(MIN_SIDE, round(width * edit["kept"])))
    new_height = min(height, max(MIN_SIDE, round(height * edit["kept"])))
    left, top = round((width - new_width) * edit["x"]), round((height - new_height) * edit["y"])
    return PixelEdit(
        new_width, new_height, lambda frame, _: frame[top : top + new_height, left : left + new_width].copy()
    )


def mirror(width: int, height: int, edit: Edit) -> PixelEdit:
    """Swap left and right."""
    return PixelEdit(width, height, lambda frame, _: np.ascontiguousarray(frame[:, ::-1]))


def rotate(width: int, height: int, edit: Edit) -> PixelEdit:
    """Turn about the middle, counter-clockwise; the size stays and empty corners are black."""

    def apply(frame: np.ndarray, _: int) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).rotate(edit["degrees"], Image.Resampling.BILINEAR))

    return PixelEdit(width, height, apply)


def letterbox(width: int, height: int, edit: Edit) -> PixelEdit:
    """Add black bars above and below, or left and right; the picture keeps its size."""
    upright = edit["sides"] == "above"
    side = height if upright else width
    bar = max(1, round(side * edit["bars"] / (1 - edit["bars"]) / 2))
    widths = ((bar, bar), (0, 0), (0, 0)) if upright else ((0, 0), (bar, bar), (0, 0))
    new_width, new_height = (width, height + 2 * bar) if upright else (width + 2 * bar, height)
    return PixelEdit(new_width, new_height, lambda frame, _: np.pad(frame, widths))


def resize(width: int, height: int, edit: Edit) -> PixelEdit:
    """Shrink, and stretch the width."""
    new_width = max(MIN_SIDE, round(width * edit["scale"] * edit["stretch"]))
    new_height = max(MIN_SIDE, round(height * edit["scale"]))
    return PixelEdit(new_width, new_height, lambda frame, _: fitted(frame, new_width, new_height))


def brightness_contrast(width: int, height: int, edit: Edit) -> PixelEdit:
    """Scale values around 128, then shift them; the ends are cut off."""
    values = (np.arange(256) - 128.0) * edit["contrast"] + 128.0 + edit["brightness"]
    table = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return PixelEdit(width, height, lambda frame, _: table[frame])


def grey(width: int, height: int, edit: Edit) -> PixelEdit:
    """Take colour away; brightness (luma) stays."""
    kept = np.float32(edit["saturation"])

    def apply(frame: np.ndarray, _: int) -> np.ndarray:
        luma = (frame @ LUMA)[..., None]
        return np.clip(np.round(luma + (frame - luma) * kept), 0, 255).astype(np.uint8)

    return PixelEdit(width, height, apply)


def blur(width: int, height: int, edit: Edit) -> PixelEdit:
    """Blur with a Gaussian."""
    kernel = ImageFilter.GaussianBlur(edit["radius"] * min(width, height))
    return PixelEdit(width, height, lambda frame, _: np.asarray(Image.fromarray(frame).filter(kernel)))


def noise(width: int, height: int, edit: Edit) -> PixelEdit:
    """Add noise that is independent in every value of every picture."""
    # Drawing fresh noise for each picture would cost more than all other edits together: each picture takes another
    # window of one larger field instead.
    margin = 32
    field = generator("noise", edit["seed"]).standard_normal((height + margin, width + margin, 3), np.float32)
    added = np.round(field * edit["deviation"]).astype(np.int16)

    def apply(frame: np.ndarray, number: int) -> np.ndarray:
        x, y = generator("noise", edit["seed"], number).integers(0, margin, 2)
        return np.clip(frame + added[y : y + height, x : x + width], 0, 255).astype(np.uint8)

    return PixelEdit(width, height, apply)


def fitted(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """The whole picture at another size, every source pixel counted when shrinking."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


def covering(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture scaled to cover a size without distortion, its middle cut out."""
    share = max(width / frame.shape[1], height / frame.shape[0])
    wide, tall = min(frame.shape[1], width / share), min(frame.shape[0], height / share)
    left, top = (frame.shape[1] - wide) / 2, (frame.shape[0] - tall) / 2
    box = (left, top, min(frame.shape[1], left + wide), min(frame.shape[0], top + tall))
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR, box=box))
