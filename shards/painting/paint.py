"""What the procedural scenes are painted with: palettes, smooth noise, colour ramps and shaded polygons.

A colour is (red, green, blue), 0 to 255. A field is float32 [height, width], about 0 to 1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """Colours that go together; many scenes share one."""

    name: str
    light: Colour
    """Sky, paper, walls."""
    middle: Colour
    dark: Colour
    """Shadow, night, outlines."""
    ground: Colour
    accents: tuple[Colour, ...]
    """Bright colours, for objects and details."""


def _colour(text: str) -> Colour:
    return (int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16))


def _palette(name: str, light: str, middle: str, dark: str, ground: str, accents: str) -> Palette:
    return Palette(
        name, _colour(light), _colour(middle), _colour(dark), _colour(ground), tuple(map(_colour, accents.split()))
    )


PALETTES = (
    _palette("noon", "cfe8f5", "6fa8c9", "24445c", "7c9a4e", "d8432f f2c033 ffffff 2f6fb5"),
    _palette("dusk", "f4b183", "b0607a", "2c1f47", "5b3a4f", "ffd166 ef476f 8ecae6 f7ede2"),
    _palette("night", "3a4d78", "1d2a4d", "0a0f22", "1a2233", "ffe08a ff7b54 7ad7f0 c77dff"),
    _palette("forest", "c9d8a6", "5f8a4a", "1d3320", "4b3a24", "d9a441 b5413b f0ead2 7f5539"),
    _palette("desert", "f6e3b4", "d9a45b", "6b3e1f", "c98a45", "3f88a5 a63d2f fff3d6 5b8c5a"),
    _palette("ice", "f3f8fb", "a9c9d8", "3c5a70", "dfeaf0", "e2574c 2b7a9b f0b429 5e548e"),
    _palette("candy", "ffe1ec", "f49ac1", "5d2a6b", "c8e3a4", "2ec4b6 ff9f1c e71d36 fdfffc"),
    _palette("rust", "d9c7b8", "a4623f", "3a2420", "6e5a4b", "e0a030 4f7f8c f2efe9 8c2f2f"),
    _palette("neon", "2b1b4d", "5a1e8c", "0d0618", "241640", "00f0d0 ff2e92 fff04d 3d8bff"),
    _palette("slate", "d5d8dc", "8a939c", "2e3338", "5c6166", "f1c40f c0392b ffffff 3498db"),
)


def jittered(palette: Palette, rng: np.random.Generator) -> Palette:
    """The palette with its hues turned and its brightness changed a little, as another day or camera would."""
    turn, gain = rng.uniform(-0.03, 0.03), rng.uniform(0.88, 1.1)

    def change(colour: Colour) -> Colour:
        hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in colour))
        red, green, blue = colorsys.hls_to_rgb((hue + turn) % 1, min(1.0, lightness * gain), saturation)
        return (round(red * 255), round(green * 255), round(blue * 255))

    return Palette(
        palette.name,
        change(palette.light),
        change(palette.middle),
        change(palette.dark),
        change(palette.ground),
        tuple(change(accent) for accent in palette.accents),
    )


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """The colour ``share`` (0 to 1) of the way from ``first`` to ``second``."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return (red, green, blue)


def shaded(colour: Colour, factor: float) -> Colour:
    """The colour darkened (``factor`` under 1) or lightened (over 1)."""
    red, green, blue = (min(255, max(0, round(value * factor))) for value in colour)
    return (red, green, blue)


def noise(
    rng: np.random.Generator, width: int, height: int, cells: float, *, stretch: float = 1.0, octaves: int = 4
) -> np.ndarray:
    """Smooth noise: random grids of finer and finer cells, added up and scaled to 0 to 1.

    Args:
        cells: cells of the coarsest grid over the height.
        stretch: how many times wider than high a blob is (above 1: streaks lie, below 1: streaks stand).
        octaves: number of grids; each has half the cells' size and half the weight of the one before.

    Returns:
        float32 [height, width].
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows = max(2, round(cells * 2**octave))
        columns = max(2, round(cells * 2**octave * width / height / stretch))
        grid = rng.random((rows, columns), dtype=np.float32)
        total += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def profile(rng: np.random.Generator, width: int, cells: float, *, octaves: int = 5) -> np.ndarray:
    """A smooth random line, 0 to 1, as a crest or a bank; ``cells`` hills over the width.

    Returns:
        float32 [width].
    """
    total = np.zeros(width, np.float32)
    for octave in range(octaves):
        knots = rng.random(max(3, round(cells * 2**octave) + 1))
        total += np.interp(np.linspace(0, len(knots) - 1, width), np.arange(len(knots)), knots) * 0.5**octave
    return (total - total.min()) / max(float(np.ptp(total)), 1e-6)


def ramp(field: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Colour a field: 0 takes the first colour, 1 the last, values between are mixed.

    Returns:
        uint8 [height, width, 3].
    """
    steps = np.linspace(0, len(colours) - 1, 256)
    table = np.stack([np.interp(steps, range(len(colours)), [c[i] for c in colours]) for i in range(3)], axis=-1)
    return table.round().astype(np.uint8)[np.clip(field * 255, 0, 255).astype(np.uint8)]


def grained(pixels: np.ndarray, field: np.ndarray, strength: float) -> np.ndarray:
    """Lighten and darken uint8 [H, W, 3] pixels by a field around 0.5; ``strength`` 1 goes from black to double."""
    gain = 1 + (field[..., None] - 0.5) * 2 * strength
    return np.clip(pixels * gain, 0, 255).astype(np.uint8)


def vertical(height: int, width: int) -> np.ndarray:
    """A field that is 0 in the top row and 1 in the bottom row."""
    return np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """One of the colours."""
    return colours[int(rng.integers(len(colours)))]
