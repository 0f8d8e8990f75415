"""Edits that lay something over the picture, or the picture over something: logo, text, picture in picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...core.seeds import generator
from .pixel_edits import MIN_SIDE, PixelEdit, covering, fitted
from .plan import Edit

BRIGHT = ((230, 57, 70), (255, 190, 11), (58, 134, 255), (6, 214, 160), (255, 255, 255), (131, 56, 236))
SYLLABLES = ("ka", "lo", "mi", "ren", "ta", "su", "vel", "nor", "pa", "dri", "fen", "go", "hal", "is", "jun")


def logo(width: int, height: int, edit: Edit) -> PixelEdit:
    """A made-up emblem in a corner."""
    rng = generator("logo", edit["seed"])
    size = max(8, round(min(width, height) * edit["size"]))
    emblem = _emblem(rng, size, edit["opacity"])
    gap = round(min(width, height) * 0.03)
    left = width - size - gap if edit["corner"] % 2 else gap
    top = height - size - gap if edit["corner"] >= 2 else gap
    return _overlay(width, height, emblem, max(0, left), max(0, top))


def text(width: int, height: int, edit: Edit) -> PixelEdit:
    """Lines of made-up words at the top or the bottom."""
    rng = generator("text", edit["seed"])
    line = max(6, round(height * edit["line"]))
    tall = round(line * (edit["lines"] + 0.5))
    layer = Image.new("RGBA", (width, tall), (0, 0, 0, 170) if edit["band"] else (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    font = ImageFont.load_default(size=line * 0.85)
    colour = BRIGHT[int(rng.integers(len(BRIGHT)))]
    for row in range(edit["lines"]):
        words, longer = "", _word(rng)
        while draw.textlength(longer, font=font) < width * 0.96:
            words, longer = longer, f"{longer} {_word(rng)}"
        where = (width / 2, line * (row + 0.75))
        draw.text(where, words, fill=colour, font=font, anchor="mm", stroke_width=1, stroke_fill=(0, 0, 0))
    return _overlay(width, height, layer, 0, max(0, height - tall) if edit["place"] == "bottom" else 0)


def _word(rng: np.random.Generator) -> str:
    return "".join(SYLLABLES[int(i)] for i in rng.integers(len(SYLLABLES), size=int(rng.integers(2, 4))))


def picture_in_picture(width: int, height: int, edit: Edit, background: Callable[[int], np.ndarray]) -> PixelEdit:
    """The picture, shrunk, over pictures of another video; the size stays.

    Args:
        background: gives the other video's picture, of any size, for a number within the copy.
    """
    inner_width = min(width, max(MIN_SIDE, round(width * edit["side"])))
    inner_height = min(height, max(MIN_SIDE, round(height * edit["side"])))
    left, top = round((width - inner_width) * edit["x"]), round((height - inner_height) * edit["y"])

    def apply(frame: np.ndarray, number: int) -> np.ndarray:
        picture = covering(background(number), width, height).copy()
        picture[top : top + inner_height, left : left + inner_width] = fitted(frame, inner_width, inner_height)
        return picture

    return PixelEdit(width, height, apply)


def _overlay(width: int, height: int, layer: Image.Image, left: int, top: int) -> PixelEdit:
    """Lay an RGBA picture over every frame at a place; what sticks out is cut off."""
    pixels = np.asarray(layer)[: height - top, : width - left]
    tall, wide = pixels.shape[:2]
    opacity = pixels[..., 3:].astype(np.uint16)
    colour = pixels[..., :3] * opacity

    def apply(frame: np.ndarray, _: int) -> np.ndarray:
        frame = frame.copy()
        under = frame[top : top + tall, left : left + wide]
        under[:] = (colour + under * (255 - opacity) + 127) // 255
        return frame

    return PixelEdit(width, height, apply)


def _emblem(rng: np.random.Generator, size: int, opacity: float) -> Image.Image:
    scale = 4  # drawn larger and shrunk: Pillow draws without smoothing
    s = size * scale
    image = Image.new("RGBA", (s, s), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    first, second = (BRIGHT[int(i)] for i in rng.permutation(len(BRIGHT))[:2])
    if rng.random() < 0.5:
        draw.ellipse((0, 0, s - 1, s - 1), fill=first)
    else:
        draw.rounded_rectangle((0, 0, s - 1, s - 1), radius=s // 5, fill=first)
    corners = int(rng.integers(3, 8))
    angles = np.arange(2 * corners) * np.pi / corners - np.pi / 2
    reach = np.where(np.arange(2 * corners) % 2 == 0, 0.4, rng.uniform(0.15, 0.36)) * s
    draw.polygon(
        [(s / 2 + r * np.cos(a), s / 2 + r * np.sin(a)) for r, a in zip(reach, angles, strict=True)], fill=second
    )
    image = image.resize((size, size), Image.Resampling.LANCZOS)
    image.putalpha(image.getchannel("A").point([round(value * opacity) for value in range(256)]))
    return image
