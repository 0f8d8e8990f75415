"""The moving things of the procedural scenes, painted once each as pictures with a transparent ground."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from .paint import Colour, shaded

Draw = ImageDraw.ImageDraw
Painter = Callable[[Draw, int, Colour, Colour], None]
OUTLINE = (25, 25, 30)


def _ball(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    for ring in range(12):
        inset, shift = s * 0.035 * ring, s * 0.012 * ring
        box = (s * 0.05 + inset - shift, s * 0.05 + inset - shift, s * 0.95 - inset - shift, s * 0.95 - inset - shift)
        draw.ellipse(box, fill=shaded(first, 0.55 + 0.07 * ring))
    draw.arc((s * 0.05, s * 0.3, s * 0.95, s * 0.7), 10, 170, fill=second, width=max(2, s // 14))


def _car(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.polygon(
        [(s * 0.22, s * 0.5), (s * 0.34, s * 0.3), (s * 0.68, s * 0.3), (s * 0.8, s * 0.5)], fill=shaded(first, 0.8)
    )
    draw.polygon(
        [(s * 0.28, s * 0.49), (s * 0.37, s * 0.35), (s * 0.5, s * 0.35), (s * 0.5, s * 0.49)], fill=(200, 225, 240)
    )
    draw.polygon(
        [(s * 0.53, s * 0.49), (s * 0.53, s * 0.35), (s * 0.66, s * 0.35), (s * 0.74, s * 0.49)], fill=(180, 210, 230)
    )
    draw.rounded_rectangle((s * 0.03, s * 0.48, s * 0.97, s * 0.7), radius=s * 0.07, fill=first)
    draw.rectangle((s * 0.03, s * 0.58, s * 0.97, s * 0.61), fill=second)
    for x in (0.24, 0.76):
        draw.ellipse((s * (x - 0.1), s * 0.6, s * (x + 0.1), s * 0.8), fill=OUTLINE)
        draw.ellipse((s * (x - 0.05), s * 0.65, s * (x + 0.05), s * 0.75), fill=(190, 190, 190))


def _fish(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.polygon([(s * 0.72, s * 0.5), (s * 0.97, s * 0.3), (s * 0.92, s * 0.5), (s * 0.97, s * 0.7)], fill=second)
    draw.polygon([(s * 0.35, s * 0.34), (s * 0.55, s * 0.16), (s * 0.62, s * 0.36)], fill=second)
    draw.ellipse((s * 0.05, s * 0.3, s * 0.8, s * 0.7), fill=first)
    for x in (0.32, 0.48, 0.62):
        draw.arc((s * x, s * 0.33, s * (x + 0.12), s * 0.67), 90, 270, fill=second, width=max(2, s // 24))
    draw.ellipse((s * 0.14, s * 0.42, s * 0.22, s * 0.5), fill=(250, 250, 250))
    draw.ellipse((s * 0.16, s * 0.44, s * 0.2, s * 0.48), fill=OUTLINE)


def _bird(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.polygon([(s * 0.45, s * 0.5), (s * 0.1, s * 0.12), (s * 0.62, s * 0.42)], fill=second)
    draw.ellipse((s * 0.25, s * 0.42, s * 0.78, s * 0.66), fill=first)
    draw.ellipse((s * 0.68, s * 0.36, s * 0.86, s * 0.54), fill=first)
    draw.polygon([(s * 0.84, s * 0.43), (s * 0.98, s * 0.48), (s * 0.84, s * 0.5)], fill=(240, 170, 40))
    draw.polygon([(s * 0.3, s * 0.52), (s * 0.02, s * 0.46), (s * 0.04, s * 0.64)], fill=first)
    draw.polygon([(s * 0.4, s * 0.52), (s * 0.3, s * 0.94), (s * 0.66, s * 0.54)], fill=shaded(second, 0.75))


def _person(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    wide = max(3, s // 11)
    draw.line((s * 0.45, s * 0.6, s * 0.32, s * 0.97), fill=shaded(second, 0.7), width=wide)
    draw.line((s * 0.52, s * 0.6, s * 0.68, s * 0.95), fill=shaded(second, 0.6), width=wide)
    draw.line((s * 0.48, s * 0.34, s * 0.24, s * 0.54), fill=shaded(first, 0.8), width=wide)
    draw.line((s * 0.5, s * 0.34, s * 0.74, s * 0.48), fill=shaded(first, 0.9), width=wide)
    draw.rounded_rectangle((s * 0.37, s * 0.27, s * 0.6, s * 0.64), radius=s * 0.08, fill=first)
    draw.ellipse((s * 0.38, s * 0.05, s * 0.6, s * 0.27), fill=(222, 178, 140))
    draw.pieslice((s * 0.36, s * 0.02, s * 0.62, s * 0.26), 180, 360, fill=second)


def _balloon(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    for stripe in range(5):
        inset = stripe * s * 0.07
        draw.ellipse((s * 0.15 + inset, s * 0.03, s * 0.85 - inset, s * 0.7), fill=first if stripe % 2 == 0 else second)
    draw.line((s * 0.3, s * 0.62, s * 0.43, s * 0.84), fill=OUTLINE, width=2)
    draw.line((s * 0.7, s * 0.62, s * 0.57, s * 0.84), fill=OUTLINE, width=2)
    draw.rectangle((s * 0.42, s * 0.82, s * 0.58, s * 0.96), fill=(130, 90, 50))


def _boat(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.polygon([(s * 0.05, s * 0.68), (s * 0.95, s * 0.68), (s * 0.8, s * 0.9), (s * 0.2, s * 0.9)], fill=first)
    draw.rectangle((s * 0.48, s * 0.08, s * 0.52, s * 0.7), fill=(110, 75, 45))
    draw.polygon([(s * 0.46, s * 0.1), (s * 0.46, s * 0.62), (s * 0.1, s * 0.62)], fill=(245, 245, 240))
    draw.polygon([(s * 0.54, s * 0.18), (s * 0.54, s * 0.62), (s * 0.86, s * 0.62)], fill=second)


def _star(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    points = []
    for corner in range(10):
        reach, angle = s * (0.47 if corner % 2 == 0 else 0.2), corner * np.pi / 5 - np.pi / 2
        points.append((s / 2 + reach * np.cos(angle), s / 2 + reach * np.sin(angle)))
    draw.polygon(points, fill=first, outline=second, width=max(2, s // 22))


def _gear(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    for tooth in range(10):
        angle = tooth * np.pi / 5
        x, y = s / 2 + s * 0.38 * np.cos(angle), s / 2 + s * 0.38 * np.sin(angle)
        draw.ellipse((x - s * 0.09, y - s * 0.09, x + s * 0.09, y + s * 0.09), fill=shaded(first, 0.8))
    draw.ellipse((s * 0.14, s * 0.14, s * 0.86, s * 0.86), fill=first)
    draw.ellipse((s * 0.34, s * 0.34, s * 0.66, s * 0.66), fill=second)
    draw.rectangle((s * 0.48, s * 0.2, s * 0.52, s * 0.8), fill=shaded(first, 0.6))


def _crate(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.rectangle((s * 0.1, s * 0.1, s * 0.9, s * 0.9), fill=first, outline=shaded(first, 0.5), width=max(3, s // 14))
    draw.line((s * 0.12, s * 0.12, s * 0.88, s * 0.88), fill=shaded(first, 0.6), width=max(3, s // 12))
    draw.line((s * 0.12, s * 0.88, s * 0.88, s * 0.12), fill=shaded(first, 0.7), width=max(3, s // 12))
    draw.rectangle((s * 0.38, s * 0.38, s * 0.62, s * 0.62), fill=second)


def _butterfly(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    for side in (-1, 1):
        for y, reach, colour in ((0.34, 0.42, first), (0.64, 0.32, shaded(first, 0.75))):
            x = 0.5 + side * reach / 2
            draw.ellipse((s * (x - reach / 2), s * (y - 0.2), s * (x + reach / 2), s * (y + 0.2)), fill=colour)
            draw.ellipse((s * (x - 0.08), s * (y - 0.08), s * (x + 0.08), s * (y + 0.08)), fill=second)
    draw.ellipse((s * 0.46, s * 0.15, s * 0.54, s * 0.85), fill=OUTLINE)


def _robot(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.line((s * 0.5, s * 0.02, s * 0.5, s * 0.16), fill=OUTLINE, width=max(2, s // 30))
    draw.rounded_rectangle((s * 0.28, s * 0.12, s * 0.72, s * 0.42), radius=s * 0.05, fill=first)
    for x in (0.4, 0.6):
        draw.ellipse((s * (x - 0.06), s * 0.2, s * (x + 0.06), s * 0.32), fill=second)
    draw.rounded_rectangle((s * 0.2, s * 0.45, s * 0.8, s * 0.8), radius=s * 0.05, fill=shaded(first, 0.8))
    draw.rectangle((s * 0.32, s * 0.52, s * 0.68, s * 0.66), fill=second)
    for x in (0.08, 0.84):
        draw.rectangle((s * x, s * 0.47, s * (x + 0.08), s * 0.74), fill=first)
    for x in (0.28, 0.56):
        draw.rectangle((s * x, s * 0.8, s * (x + 0.16), s * 0.96), fill=shaded(first, 0.6))


def _saucer(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.pieslice((s * 0.3, s * 0.2, s * 0.7, s * 0.66), 180, 360, fill=shaded(second, 1.1))
    draw.ellipse((s * 0.03, s * 0.38, s * 0.97, s * 0.62), fill=first)
    for x in np.linspace(0.16, 0.8, 5):
        draw.ellipse((s * x, s * 0.48, s * (x + 0.06), s * 0.54), fill=second)


def _leaf(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    side = [(s * (0.5 + 0.28 * np.sin(t * np.pi) ** 0.8), s * (0.06 + 0.8 * t)) for t in np.linspace(0, 1, 14)]
    draw.polygon(side + [(s - x, y) for x, y in reversed(side)], fill=first)
    draw.line((s * 0.5, s * 0.06, s * 0.5, s * 0.97), fill=second, width=max(2, s // 26))
    for y in (0.3, 0.45, 0.6):
        draw.line((s * 0.5, s * (y + 0.1), s * 0.68, s * y), fill=second, width=2)
        draw.line((s * 0.5, s * (y + 0.1), s * 0.32, s * y), fill=second, width=2)


def _sign(draw: Draw, s: int, first: Colour, second: Colour) -> None:
    draw.rectangle((s * 0.47, s * 0.5, s * 0.53, s * 0.98), fill=(120, 120, 125))
    points = [
        (s * (0.5 + 0.42 * np.cos(a)), s * (0.36 + 0.34 * np.sin(a))) for a in np.arange(8) * np.pi / 4 + np.pi / 8
    ]
    draw.polygon(points, fill=first, outline=(245, 245, 245), width=max(3, s // 20))
    draw.rectangle((s * 0.24, s * 0.31, s * 0.76, s * 0.41), fill=second)


PAINTERS: dict[str, Painter] = {
    "ball": _ball,
    "car": _car,
    "fish": _fish,
    "bird": _bird,
    "person": _person,
    "balloon": _balloon,
    "boat": _boat,
    "star": _star,
    "gear": _gear,
    "crate": _crate,
    "butterfly": _butterfly,
    "robot": _robot,
    "saucer": _saucer,
    "leaf": _leaf,
    "sign": _sign,
}


def painted(kind: str, size: int, first: Colour, second: Colour) -> Image.Image:
    """An object as an RGBA picture of ``size`` x ``size`` pixels, seen from its usual side.

    Args:
        kind: a key of `PAINTERS`.
        first, second: the object's main and second colour.
    """
    # Painted twice as large and shrunk: Pillow draws without smoothing.
    image = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
    PAINTERS[kind](ImageDraw.Draw(image), 2 * size, first, second)
    return image.resize((size, size), Image.Resampling.LANCZOS)
