"""How strong the edits of edited copies are: the one table of all their parameters.

FROZEN. Published figures rest on these numbers: a change makes old and new figures incomparable. Whoever must change
one raises ``EDITS_VERSION``, states it beside the figures, and pins the new table in the tests.

A copy gets ``NUM_EDITS`` edits from as many different families, then one re-encode. Sizes are shares, so that they do
not depend on the picture: "of the side" means of the width and of the height each. ``Uniform(a, b)`` draws evenly from
a to b; ``EitherSign`` draws a size and then a sign; ``Choice`` takes one of its values.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

EDITS_VERSION = 1
STRENGTHS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Uniform:
    """A number drawn evenly from ``low`` to ``high``."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value, rounded to six digits so that it reads back from text unchanged."""
        return round(float(rng.uniform(self.low, self.high)), 6)


@dataclass(frozen=True)
class EitherSign:
    """A number of a size drawn evenly from ``low`` to ``high``, positive or negative with equal chance."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        return round(float(rng.uniform(self.low, self.high) * rng.choice([-1, 1])), 6)


@dataclass(frozen=True)
class Choice:
    """One of some values, all equally likely."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """One value."""
        return self.values[int(rng.integers(len(self.values)))]


Draw = Uniform | EitherSign | Choice
ANYWHERE = Uniform(0.0, 1.0)

NUM_EDITS: dict[str, tuple[int, ...]] = {"easy": (1,), "medium": (2,), "hard": (3, 4)}
"""How many edits a copy gets, each number equally likely; the re-encode comes on top."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "geometry": ("crop", "mirror", "rotate", "letterbox", "resize"),
    "overlay": ("logo", "text"),
    "colour": ("brightness_contrast", "grey"),
    "sharpness": ("blur", "noise"),
    "time": ("speed", "trim", "frame_rate"),
    "composition": ("join", "join", "picture_in_picture"),
}
"""A copy takes at most one edit of each family; within one all places are equally likely, so a join comes twice as
often as a picture in picture."""

STRENGTH_TABLE: dict[str, dict[str, dict[str, Draw]]] = {
    # The part that is kept, of each side, and where it lies (0: left or top, 1: right or bottom).
    "crop": {
        "easy": {"kept": Uniform(0.92, 0.97), "x": ANYWHERE, "y": ANYWHERE},
        "medium": {"kept": Uniform(0.8, 0.87), "x": ANYWHERE, "y": ANYWHERE},
        "hard": {"kept": Uniform(0.72, 0.8), "x": ANYWHERE, "y": ANYWHERE},
    },
    # Left and right swapped; there is no weaker or stronger form.
    "mirror": {"easy": {}, "medium": {}, "hard": {}},
    # Degrees, counter-clockwise; the corners that come into view are black.
    "rotate": {
        "easy": {"degrees": EitherSign(1, 3)},
        "medium": {"degrees": EitherSign(3, 5)},
        "hard": {"degrees": EitherSign(5, 9)},
    },
    # Both black bars together, as a share of the finished side; above and below, or left and right.
    "letterbox": {
        "easy": {"bars": Uniform(0.03, 0.05), "sides": Choice(("above", "left"))},
        "medium": {"bars": Uniform(0.05, 0.07), "sides": Choice(("above", "left"))},
        "hard": {"bars": Uniform(0.07, 0.11), "sides": Choice(("above", "left"))},
    },
    # New width and height as shares of the old; stretch makes the width this many times wider on top.
    "resize": {
        "easy": {"scale": Uniform(0.8, 0.95), "stretch": Choice((1.0,))},
        "medium": {"scale": Uniform(0.6, 0.75), "stretch": Uniform(0.95, 1.05)},
        "hard": {"scale": Uniform(0.45, 0.6), "stretch": Choice((0.87, 1.15))},
    },
    # Diameter as a share of the short side; opacity 1 hides what is below; corner as (right?, bottom?).
    "logo": {
        "easy": {"size": Uniform(0.1, 0.14), "opacity": Uniform(0.6, 0.8), "corner": Choice((0, 1, 2, 3))},
        "medium": {"size": Uniform(0.18, 0.24), "opacity": Uniform(0.8, 0.95), "corner": Choice((0, 1, 2, 3))},
        "hard": {"size": Uniform(0.26, 0.34), "opacity": Choice((1.0,)), "corner": Choice((0, 1, 2, 3))},
    },
    # Height of one line as a share of the height; lines stand at the top or the bottom, on a dark band when asked.
    "text": {
        "easy": {
            "line": Uniform(0.04, 0.045),
            "lines": Choice((1,)),
            "place": Choice(("top", "bottom")),
            "band": Choice((False,)),
        },
        "medium": {
            "line": Uniform(0.045, 0.055),
            "lines": Choice((1, 2)),
            "place": Choice(("top", "bottom")),
            "band": Choice((False, True)),
        },
        "hard": {
            "line": Uniform(0.055, 0.07),
            "lines": Choice((2, 3)),
            "place": Choice(("top", "bottom")),
            "band": Choice((True,)),
        },
    },
    # Added to each value of 0..255 after scaling around 128 by the contrast.
    "brightness_contrast": {
        "easy": {"brightness": EitherSign(6, 14), "contrast": Choice((0.93, 1.07))},
        "medium": {"brightness": EitherSign(18, 30), "contrast": Choice((0.85, 1.2))},
        "hard": {"brightness": EitherSign(32, 48), "contrast": Choice((0.7, 1.4))},
    },
    # Saturation that is kept: 1 leaves the colours, 0 gives grey (luma of ITU-R BT.601).
    "grey": {
        "easy": {"saturation": Uniform(0.5, 0.7)},
        "medium": {"saturation": Uniform(0.15, 0.3)},
        "hard": {"saturation": Choice((0.0,))},
    },
    # Radius of the Gaussian (its standard deviation) as a share of the short side.
    "blur": {
        "easy": {"radius": Uniform(0.002, 0.003)},
        "medium": {"radius": Uniform(0.004, 0.006)},
        "hard": {"radius": Uniform(0.005, 0.0075)},
    },
    # Standard deviation in values of 0..255; another noise for each picture.
    "noise": {
        "easy": {"deviation": Uniform(3, 5)},
        "medium": {"deviation": Uniform(6, 9)},
        "hard": {"deviation": Uniform(9, 13)},
    },
    # Source seconds per second of the copy: 2 plays twice as fast. Pictures are left out or repeated, never mixed.
    "speed": {
        "easy": {"factor": Choice((0.92, 0.95, 1.05, 1.08))},
        "medium": {"factor": Choice((0.75, 0.8, 1.25, 1.35))},
        "hard": {"factor": Choice((0.5, 0.6, 1.7, 2.0))},
    },
    # Share of the source's length that is kept, in how many pieces; lead and split place them.
    "trim": {
        "easy": {"kept": Uniform(0.82, 0.92), "pieces": Choice((1,)), "lead": ANYWHERE, "split": ANYWHERE},
        "medium": {"kept": Uniform(0.65, 0.78), "pieces": Choice((1,)), "lead": ANYWHERE, "split": ANYWHERE},
        "hard": {"kept": Uniform(0.45, 0.6), "pieces": Choice((1, 2)), "lead": ANYWHERE, "split": ANYWHERE},
    },
    # Pictures per second of the copy as a share of what they would be.
    "frame_rate": {
        "easy": {"share": Uniform(0.75, 0.9)},
        "medium": {"share": Uniform(0.45, 0.6)},
        "hard": {"share": Uniform(0.2, 0.3)},
    },
    # Length of the other video's part, as a share of the source's part; where its excerpt starts.
    "join": {
        "easy": {"length": Uniform(0.08, 0.15), "side": Choice(("before", "after")), "start": ANYWHERE},
        "medium": {"length": Uniform(0.15, 0.25), "side": Choice(("before", "after")), "start": ANYWHERE},
        "hard": {"length": Uniform(0.25, 0.35), "side": Choice(("before", "after", "around")), "start": ANYWHERE},
    },
    # Side of the copy within the other video's picture, as a share of that; where it lies and the other one starts.
    "picture_in_picture": {
        "easy": {"side": Uniform(0.92, 0.95), "x": ANYWHERE, "y": ANYWHERE, "start": ANYWHERE},
        "medium": {"side": Uniform(0.84, 0.89), "x": ANYWHERE, "y": ANYWHERE, "start": ANYWHERE},
        "hard": {"side": Uniform(0.75, 0.82), "x": ANYWHERE, "y": ANYWHERE, "start": ANYWHERE},
    },
}

RE_ENCODE: dict[str, tuple[tuple[str, int, int], ...]] = {
    "easy": (("libx264", 20, 24), ("libx265", 22, 26), ("mpeg4", 2, 4)),
    "medium": (("libx264", 26, 29), ("libx265", 28, 31), ("mpeg4", 5, 7)),
    "hard": (("libx264", 30, 34), ("libx265", 32, 36), ("mpeg4", 9, 13)),
}
"""The closing re-encode: encoder, and the best and worst quality (crf of x264 and x265, quantiser of mpeg4)."""


def table_hash() -> str:
    """SHA-256 over everything in this file that a copy depends on."""

    def plain(value: Any) -> Any:
        if isinstance(value, (Uniform, EitherSign)):
            return [type(value).__name__, value.low, value.high]
        if isinstance(value, Choice):
            return ["Choice", *value.values]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    content = [EDITS_VERSION, NUM_EDITS, FAMILIES, plain(STRENGTH_TABLE), RE_ENCODE]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
