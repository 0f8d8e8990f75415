"""Painted worlds of regular make: boards, cloth, glass, print. Each call paints another one.

Every painter takes a generator, the size in pixels and a palette, and returns an RGB picture of that size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .paint import Palette, blend, grained, noise, pick, ramp, shaded


def pitch(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """A playing field from above, mown in stripes, with white lines and a crowd along the edge."""
    grass = blend(palette.ground, (60, 140, 60), rng.uniform(0.3, 0.9))
    stripe = width / rng.integers(9, 18)
    columns = np.arange(width)[None].repeat(height, axis=0)
    pixels = ramp((columns // stripe % 2).astype(np.float32), [shaded(grass, 0.85), shaded(grass, 1.1)])
    image = Image.fromarray(grained(pixels, noise(rng, width, height, 40, octaves=2), 0.15))
    draw = ImageDraw.Draw(image)
    white, line = (240, 240, 235), max(2, height // 110)
    left, top, right, bottom = width * 0.08, height * 0.14, width * 0.92, height * 0.86
    draw.rectangle((left, top, right, bottom), outline=white, width=line)
    middle, radius = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.1, 0.18)
    draw.line((middle, top, middle, bottom), fill=white, width=line)
    draw.ellipse(
        (middle - radius, height / 2 - radius, middle + radius, height / 2 + radius), outline=white, width=line
    )
    for side in (left, right):
        deep = width * 0.13 * (1 if side == left else -1)
        draw.rectangle(
            (min(side, side + deep), height * 0.3, max(side, side + deep), height * 0.7), outline=white, width=line
        )
    for _ in range(1100):
        x, y = rng.uniform(0, width), rng.uniform(0, 0.11) * height
        y = y if rng.random() < 0.5 else height - y
        r = height * 0.011
        draw.ellipse((x - r, y - r, x + r, y + r), fill=shaded(pick(rng, palette.accents), rng.uniform(0.5, 1.1)))
    return image


def circuit(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """A circuit board: chips, pads and traces at right and half-right angles."""
    board = blend(palette.dark, pick(rng, ((10, 90, 60), (20, 40, 110), palette.middle)), 0.6)
    image = Image.new("RGB", (width, height), board)
    draw = ImageDraw.Draw(image)
    cell = height / rng.integers(22, 34)
    for _ in range(170):
        x, y = rng.integers(0, int(width / cell)) * cell, rng.integers(0, int(height / cell)) * cell
        path, heading = [(x, y)], int(rng.integers(8))
        for _ in range(int(rng.integers(2, 6))):
            heading += int(rng.integers(-1, 2))
            run = cell * int(rng.integers(1, 6))
            dx, dy = np.sign(np.round([np.cos(heading * np.pi / 4), np.sin(heading * np.pi / 4)], 3))
            x, y = x + dx * run, y + dy * run
            path.append((x, y))
        draw.line(path, fill=shaded(board, 1.7), width=max(2, int(cell * 0.25)))
        for end in (path[0], path[-1]):
            box = (end[0] - cell * 0.3, end[1] - cell * 0.3, end[0] + cell * 0.3, end[1] + cell * 0.3)
            draw.ellipse(box, fill=palette.accents[1])
    for _ in range(int(rng.integers(9, 16))):
        w, h = cell * rng.integers(3, 9), cell * rng.integers(2, 6)
        left, top = float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h))
        for pin in np.arange(left + cell * 0.3, left + w - cell * 0.2, cell * 0.6).tolist():
            draw.line(
                (pin, top - cell * 0.4, pin, top + h + cell * 0.4), fill=(200, 200, 195), width=max(2, int(cell * 0.2))
            )
        body = pick(rng, ((30, 30, 34), (30, 30, 34), palette.accents[0], palette.accents[3 % len(palette.accents)]))
        draw.rectangle((left, top, left + w, top + h), fill=body)
        draw.ellipse((left + 4, top + 4, left + 4 + cell * 0.4, top + 4 + cell * 0.4), fill=shaded(palette.light, 0.8))
    return image


def glass(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Stained glass: coloured cells around scattered points, with leading between them."""
    scale = 2  # the cells are found on a picture half as large: the distances cost most of the time
    w, h = width // scale, height // scale
    count = int(rng.integers(40, 110))
    points = rng.uniform(0, 1, (count, 2)).astype(np.float32) * np.array([h, w], np.float32)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    nearest, second = np.full((h, w), np.inf, np.float32), np.full((h, w), np.inf, np.float32)
    owner = np.zeros((h, w), np.int64)
    for index, (py, px) in enumerate(points):
        distance = np.hypot(y - py, x - px)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        owner[closer] = index
        nearest = np.where(closer, distance, nearest)
    choice = (*palette.accents, palette.middle, palette.light)
    colours = np.asarray([shaded(pick(rng, choice), rng.uniform(0.6, 1.2)) for _ in range(count)], np.uint8)
    pixels = grained(colours[owner], noise(rng, w, h, 8), 0.35)
    pixels[second - nearest < h / 110] = shaded(palette.dark, 0.6)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def tartan(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Woven cloth: bands of thread crossing bands of thread."""
    colours = [palette.dark, palette.middle, *palette.accents]
    sett: list[int] = []
    for _ in range(int(rng.integers(5, 9))):
        sett += [int(rng.integers(len(colours)))] * int(height * rng.uniform(0.01, 0.09))
    sett += sett[::-1]
    threads = np.asarray(colours, np.uint8)[np.asarray(sett)]
    warp = threads[np.arange(width) % len(sett)][None].repeat(height, axis=0)
    weft = threads[np.arange(height) % len(sett)][:, None].repeat(width, axis=1)
    y, x = np.mgrid[0:height, 0:width]
    over = ((x + y) // 3 % 2 == 0)[..., None]
    return Image.fromarray(grained(np.where(over, warp, weft), noise(rng, width, height, 2.5), 0.4))


def print_page(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """A printed page: headline bars, columns of text lines and pictures."""
    paper = blend(palette.light, (255, 255, 255), rng.uniform(0, 0.5))
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    columns = int(rng.integers(2, 5))
    wide, ink = width / columns, blend(palette.dark, (20, 20, 20), 0.5)
    draw.rectangle(
        (width * 0.05, height * 0.04, width * rng.uniform(0.5, 0.95), height * 0.13), fill=pick(rng, palette.accents)
    )
    for column in range(columns):
        y, left, right = height * 0.17, wide * (column + 0.08), wide * (column + 0.92)
        while y < height * 0.95:
            if rng.random() < 0.08:
                tall = rng.uniform(0.12, 0.3) * height
                box = (int(left), int(y), int(right), int(min(y + tall, height)))
                field = noise(rng, box[2] - box[0], max(2, box[3] - box[1]), 3)
                image.paste(
                    Image.fromarray(ramp(field, [palette.dark, pick(rng, palette.accents), palette.light])), box[:2]
                )
                y += tall + height * 0.02
            x = left
            end = right if rng.random() < 0.85 else left + (right - left) * rng.uniform(0.2, 0.8)
            while x < end:
                word = rng.uniform(0.01, 0.06) * height
                draw.rectangle((x, y, min(x + word, end), y + height * 0.011), fill=ink)
                x += word + height * 0.012
            y += height * 0.026
    return Image.fromarray(grained(np.asarray(image), noise(rng, width, height, 3), 0.12))


def tiles(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Tiles with arcs, each turned at random: the arcs join into winding paths."""
    rows = int(rng.integers(7, 15))
    cell = int(np.ceil(height / rows))
    ground, line, fill = palette.light, pick(rng, (palette.dark, palette.middle)), pick(rng, palette.accents)
    tile = Image.new("RGB", (cell, cell), ground)
    draw = ImageDraw.Draw(tile)
    thick = max(3, int(cell * rng.uniform(0.14, 0.3)))
    inner = cell / 2 - thick / 2
    for x, y in ((0, 0), (cell, cell)):
        if rng.random() < 0.7:
            draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=fill)
        outer = cell / 2 + thick / 2
        draw.ellipse((x - outer, y - outer, x + outer, y + outer), outline=line, width=thick)
    turned = tile.transpose(Image.Transpose.ROTATE_90)
    image = Image.new("RGB", (width, height))
    for y in range(0, height, cell):
        for x in range(0, width, cell):
            image.paste(tile if rng.random() < 0.5 else turned, (x, y))
    return Image.fromarray(grained(np.asarray(image), noise(rng, width, height, 2), 0.35))


def planks(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Wooden boards with grain, knots and nails."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top = 0
    while top < height:
        tall = int(height * rng.uniform(0.07, 0.16)) + 1
        colour = shaded(blend(palette.ground, (150, 100, 60), 0.5), rng.uniform(0.7, 1.25))
        grain = noise(rng, width, tall, 1.2, stretch=10, octaves=4)
        rings = 0.5 + 0.5 * np.sin(grain * rng.uniform(20, 45))
        board = ramp(rings, [shaded(colour, 0.65), shaded(colour, 1.15)])
        pixels[top : top + tall] = board[: height - top]
        pixels[top : top + 2] = shaded(colour, 0.3)
        top += tall
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.008, 0.03) * height
        for ring in (1.0, 0.7, 0.4):
            draw.ellipse(
                (x - 1.6 * r * ring, y - r * ring, x + 1.6 * r * ring, y + r * ring), outline=palette.dark, width=2
            )
    for _ in range(int(rng.integers(0, 9))):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.04, 0.12) * height
        colour = shaded(pick(rng, palette.accents), 0.9)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=shaded(colour, 0.6), width=3)
    return image


PATTERNS = {painter.__name__: painter for painter in (pitch, circuit, glass, tartan, print_page, tiles, planks)}
