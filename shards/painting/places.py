"""Painted worlds that people built: each function paints one kind of place, and no two calls paint the same one.

Every painter takes a generator, the size in pixels and a palette, and returns an RGB picture of that size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .paint import Colour, Palette, blend, grained, noise, pick, profile, ramp, shaded, vertical


def city(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Rows of buildings with lit windows behind a street."""
    image = Image.fromarray(ramp(vertical(height, width), [palette.dark, palette.middle, palette.light]))
    draw = ImageDraw.Draw(image)
    for row, (tallest, tone) in enumerate(((0.85, 0.55), (0.62, 0.3), (0.42, 0.0))):
        x = -rng.uniform(0, 0.1) * height
        while x < width:
            wide, tall = rng.uniform(0.12, 0.3) * height, rng.uniform(0.5, 1) * tallest * height
            wall = blend(shaded(pick(rng, (palette.dark, palette.ground, palette.middle)), 0.8), palette.middle, tone)
            top = height * 0.92 - tall
            draw.rectangle((x, top, x + wide, height), fill=wall)
            if rng.random() < 0.3:
                draw.line((x + wide / 2, top, x + wide / 2, top - height * 0.08), fill=wall, width=3)
            _windows(rng, draw, (x, top, wide, tall), (palette.accents[0], palette.accents[1], shaded(wall, 1.4)), row)
            x += wide + rng.uniform(0, 0.03) * height
    draw.rectangle((0, height * 0.92, width, height), fill=shaded(palette.dark, 0.7))
    for x in range(0, width, max(8, height // 8)):
        draw.rectangle((x, height * 0.955, x + height * 0.06, height * 0.965), fill=palette.light)
    return image


def _windows(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    wall: tuple[float, float, float, float],
    colours: tuple[Colour, ...],
    row: int,
) -> None:
    x, top, wide, tall = wall
    columns, floors = int(rng.integers(3, 7)), max(2, int(tall / wide * rng.integers(3, 6)))
    step_x, step_y = wide / (columns + 0.5), tall / floors
    lit = rng.random((floors, columns)) < rng.uniform(0.25, 0.8)
    for floor, column in np.argwhere(lit):
        left, upper = x + step_x * (column + 0.4), top + step_y * (floor + 0.3)
        box = (left, upper, left + step_x * 0.55, upper + step_y * 0.5)
        draw.rectangle(box, fill=shaded(colours[int(rng.integers(len(colours)))], 0.5 + 0.25 * row))


def bricks(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """A brick wall with stains, windows and a painted sign."""
    brick, mortar = blend(palette.ground, palette.accents[-1], 0.35), blend(palette.light, palette.ground, 0.3)
    image = Image.new("RGB", (width, height), mortar)
    draw = ImageDraw.Draw(image)
    rows = int(rng.integers(18, 34))
    tall = height / rows
    wide = tall * rng.uniform(2, 3)
    gap = tall * 0.1
    for row in range(rows + 1):
        for column in range(-1, int(width / wide) + 2):
            x, y = (column + 0.5 * (row % 2)) * wide, row * tall
            colour = shaded(brick, rng.uniform(0.65, 1.2))
            draw.rectangle((x + gap, y + gap, x + wide - gap, y + tall - gap), fill=colour)
    image = Image.fromarray(grained(np.asarray(image), noise(rng, width, height, 3), 0.45))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 5))):
        x, y, w = rng.uniform(0.05, 0.8) * width, rng.uniform(0.1, 0.6) * height, rng.uniform(0.12, 0.28) * height
        h = w * rng.uniform(0.7, 1.6)
        draw.rectangle((x - 5, y - 5, x + w + 5, y + h + 5), fill=palette.dark)
        draw.rectangle((x, y, x + w, y + h), fill=pick(rng, palette.accents))
        if rng.random() < 0.5:
            draw.line((x + w / 2, y, x + w / 2, y + h), fill=palette.dark, width=4)
            draw.line((x, y + h / 2, x + w, y + h / 2), fill=palette.dark, width=4)
        else:
            draw.ellipse((x + w * 0.2, y + h * 0.2, x + w * 0.8, y + h * 0.8), fill=pick(rng, palette.accents))
    return image


def room(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """An interior: papered wall, pictures, furniture, boards on the floor."""
    wall = Image.new("RGB", (width, height), palette.light)
    draw = ImageDraw.Draw(wall)
    stripe = int(height * rng.uniform(0.03, 0.12))
    for left in range(0, width, 2 * stripe):
        draw.rectangle(
            (left, 0, left + stripe, height), fill=blend(palette.light, palette.middle, rng.uniform(0.2, 0.5))
        )
    floor = int(height * rng.uniform(0.62, 0.75))
    for i in range(-12, 24):
        colour = shaded(palette.ground, rng.uniform(0.7, 1.15))
        spread = (i * 0.08 - 0.25) * width
        corners = [(i * width / 12, floor), ((i + 1) * width / 12, floor)]
        draw.polygon([*corners, (spread * 2 + width * 0.66, height), (spread * 2 + width * 0.5, height)], fill=colour)
    draw.rectangle((0, floor - height * 0.03, width, floor), fill=palette.dark)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(0.02, 0.85) * width, rng.uniform(0.05, 0.35) * height
        w, h = rng.uniform(0.12, 0.3) * height, rng.uniform(0.12, 0.25) * height
        draw.rectangle((x, y, x + w, y + h), fill=pick(rng, (palette.dark, palette.accents[1], (250, 250, 250))))
        art = ramp(
            noise(rng, max(4, int(w) - 12), max(4, int(h) - 12), 2), [pick(rng, palette.accents) for _ in range(3)]
        )
        wall.paste(Image.fromarray(art), (int(x) + 6, int(y) + 6))
    for _ in range(int(rng.integers(2, 4))):
        x, w, h = rng.uniform(0, 0.8) * width, rng.uniform(0.2, 0.5) * height, rng.uniform(0.15, 0.4) * height
        base, colour = floor + rng.uniform(0.05, 0.2) * height, shaded(pick(rng, palette.accents), 0.8)
        draw.rounded_rectangle((x, base - h, x + w, base), radius=h * 0.12, fill=colour)
        draw.rounded_rectangle(
            (x + w * 0.08, base - h * 0.9, x + w * 0.92, base - h * 0.5), radius=8, fill=shaded(colour, 1.3)
        )
        draw.rectangle((x + w * 0.03, base, x + w * 0.1, base + h * 0.15), fill=palette.dark)
        draw.rectangle((x + w * 0.9, base, x + w * 0.97, base + h * 0.15), fill=palette.dark)
    return Image.fromarray(grained(np.asarray(wall), noise(rng, width, height, 2, octaves=2), 0.25))


def fields(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Farmland from the air: ploughed patches, roads and a river."""
    image = Image.new("RGB", (width, height), palette.ground)
    boxes = [(0.0, 0.0, float(width), float(height))]
    while len(boxes) < 45:
        boxes.sort(key=lambda box: -(box[2] * box[3]))
        x, y, w, h = boxes.pop(0)
        cut = rng.uniform(0.3, 0.7)
        if w > h:
            boxes += [(x, y, w * cut, h), (x + w * cut, y, w * (1 - cut), h)]
        else:
            boxes += [(x, y, w, h * cut), (x, y + h * cut, w, h * (1 - cut))]
    crops = [
        palette.ground,
        palette.middle,
        blend(palette.ground, (90, 140, 50), 0.6),
        palette.light,
        palette.accents[1],
    ]
    for x, y, w, h in boxes:
        rows, columns = np.mgrid[0 : int(h) + 1, 0 : int(w) + 1]
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(0.3, 1.2)
        furrow = 0.5 + 0.5 * np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * pitch)
        colour = pick(rng, crops)
        image.paste(Image.fromarray(ramp(furrow, [shaded(colour, 0.75), shaded(colour, 1.1)])), (int(x), int(y)))
    draw = ImageDraw.Draw(image)
    for x, y, w, h in boxes:
        draw.rectangle((x, y, x + w, y + h), outline=shaded(palette.dark, 1.1), width=2)
    points = np.linspace(-0.1, 1.1, 40)
    bend = profile(rng, 40, 3, octaves=2)
    river = [(p * width, (bend[i] * 1.2 - 0.1) * height) for i, p in enumerate(points)]
    draw.line(river, fill=blend(palette.middle, (60, 120, 170), 0.6), width=int(height * 0.05), joint="curve")
    draw.line([(y, x) for x, y in river], fill=palette.light, width=int(height * 0.018), joint="curve")
    return Image.fromarray(grained(np.asarray(image), noise(rng, width, height, 4), 0.25))


def road(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """A road to the horizon between verges, poles and hills."""
    horizon, middle = height * rng.uniform(0.4, 0.55), width * rng.uniform(0.35, 0.65)
    pixels = ramp(vertical(height, width), [palette.middle, palette.light, palette.light])
    pixels = grained(pixels, noise(rng, width, height, 3, stretch=3), 0.2)
    hills = horizon - profile(rng, width, 4) * height * 0.14
    below = np.arange(height)[:, None] >= hills[None]
    pixels[below] = blend(palette.ground, palette.middle, 0.5)
    verge = ramp(noise(rng, width, height, 20, stretch=3), [shaded(palette.ground, 0.7), shaded(palette.ground, 1.2)])
    pixels[int(horizon) :] = verge[int(horizon) :]
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    half = width * rng.uniform(0.4, 0.7)
    bottom = middle + rng.uniform(-0.2, 0.2) * width
    draw.polygon(
        [(middle - 6, horizon), (middle + 6, horizon), (bottom + half, height), (bottom - half, height)],
        fill=blend(palette.dark, (90, 90, 95), 0.5),
    )
    lanes = int(rng.integers(2, 5))
    for lane in range(lanes + 1):
        for dash in np.geomspace(0.03, 1.0, 14 if 0 < lane < lanes else 80):
            ends = [horizon + (height - horizon) * share for share in (dash, dash * 1.18)]
            side = (lane / lanes * 2 - 1) * 0.94
            xs = [middle + (bottom - middle + half * side) * (y - horizon) / (height - horizon) for y in ends]
            colour = palette.accents[1] if lane in (0, lanes) else (240, 240, 240)
            draw.line((xs[0], ends[0], xs[1], ends[1]), fill=colour, width=max(1, int(dash * height * 0.02)))
    for dash in np.geomspace(0.06, 0.8, 6):
        for side in (-1.5, 1.5):
            x, y = middle + (bottom - middle + half * side) * dash, horizon + (height - horizon) * dash
            draw.line((x, y, x, y - dash * height * 0.6), fill=palette.dark, width=max(1, int(dash * height * 0.02)))
    return image


def shelves(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Shelves full of books and jars."""
    image = Image.new("RGB", (width, height), shaded(palette.dark, 0.8))
    draw = ImageDraw.Draw(image)
    rows = int(rng.integers(3, 6))
    tall = height / rows
    for row in range(rows):
        base, x = (row + 1) * tall - tall * 0.09, 0.0
        while x < width:
            w, h = rng.uniform(0.1, 0.35) * tall, rng.uniform(0.5, 0.85) * tall
            colour = shaded(pick(rng, (*palette.accents, palette.middle, palette.ground)), rng.uniform(0.6, 1.1))
            if rng.random() < 0.12:
                draw.ellipse((x, base - w * 1.6, x + w * 1.6, base), fill=colour)
                draw.ellipse((x + w * 0.3, base - w * 1.3, x + w * 0.7, base - w * 0.9), fill=shaded(colour, 1.5))
                x += w * 1.6
            elif rng.random() < 0.9:
                draw.rectangle((x, base - h, x + w - 1, base), fill=colour)
                for line in (0.15, 0.8):
                    draw.rectangle((x, base - h * line - 3, x + w - 1, base - h * line), fill=shaded(colour, 1.5))
                x += w
            else:
                x += w * 1.5
        draw.rectangle((0, base, width, base + tall * 0.09), fill=palette.ground)
        draw.line((0, base, width, base), fill=shaded(palette.ground, 1.4), width=2)
    return Image.fromarray(grained(np.asarray(image), noise(rng, width, height, 2, octaves=3), 0.3))


PLACES = {painter.__name__: painter for painter in (city, bricks, room, fields, road, shelves)}
