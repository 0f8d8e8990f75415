"""Painted worlds without people: each function paints one kind of place, and no two calls paint the same one.

Every painter takes a generator, the size in pixels and a palette, and returns an RGB picture of that size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .paint import Palette, blend, grained, noise, pick, profile, ramp, shaded, vertical


def mountains(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Ridges behind ridges under a sky with a sun."""
    image = Image.fromarray(ramp(vertical(height, width), [shaded(palette.middle, 0.9), palette.light, palette.light]))
    draw = ImageDraw.Draw(image)
    x, y, r = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.35) * height, rng.uniform(0.05, 0.11) * height
    draw.ellipse((x - r, y - r, x + r, y + r), fill=blend(palette.accents[1], (255, 255, 255), 0.3))
    layers = int(rng.integers(3, 6))
    columns = np.arange(width)
    for layer in range(layers):
        share = (layer + 1) / layers
        rough = profile(rng, width, 2 + layer, octaves=6)
        rough = np.abs(rough - 0.5) * 2 if rng.random() < 0.5 else rough
        crest = height * (0.28 + 0.5 * share) - rough * height * rng.uniform(0.18, 0.4)
        below = np.arange(height)[:, None] >= crest[None]
        colour = blend(blend(palette.light, palette.middle, 0.6), blend(palette.ground, palette.dark, 0.45), share)
        face = ramp(noise(rng, width, height, 10, stretch=0.5), [shaded(colour, 0.7), shaded(colour, 1.25)])
        snow = below & (np.arange(height)[:, None] < crest[None] + height * 0.04 * (1 + rough[None] * 2))
        if layer == 0:
            face[snow] = (245, 248, 250)
        pixels = np.asarray(image).copy()
        pixels[below] = face[below]
        image = Image.fromarray(pixels)
    _tufts(rng, image, columns, palette)
    return image


def _tufts(rng: np.random.Generator, image: Image.Image, columns: np.ndarray, palette: Palette) -> None:
    draw, height = ImageDraw.Draw(image), image.height
    for _ in range(120):
        x, y = float(rng.choice(columns)), rng.uniform(0.8, 1.0) * height
        lean = rng.uniform(-0.02, 0.02) * height
        draw.line((x, y, x + lean, y - rng.uniform(0.02, 0.06) * height), fill=shaded(palette.ground, 0.6), width=2)


def sea(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Waves to the horizon, clouds above, perhaps an island."""
    horizon = int(height * rng.uniform(0.3, 0.5))
    sky = ramp(noise(rng, width, height, 3, stretch=3), [palette.light, blend(palette.light, (255, 255, 255), 0.7)])
    depth = vertical(height - horizon, width)
    swell = noise(rng, width, height - horizon, 12, stretch=6, octaves=4)
    rows = np.arange(height - horizon)[:, None] / height
    waves = 0.5 + 0.5 * np.sin(50 / (rows + 0.12) + swell * 9)
    water = ramp(
        0.25 + depth * 0.35 + (waves - 0.5) * (0.15 + 0.5 * depth), [palette.light, palette.middle, palette.dark]
    )
    foam = (swell > 0.72) & (waves > 0.6)
    water[foam] = blend(palette.light, (255, 255, 255), 0.8)
    sky[horizon:] = water
    image = Image.fromarray(sky)
    if rng.random() < 0.7:
        draw = ImageDraw.Draw(image)
        x, wide, tall = rng.uniform(0.1, 0.7) * width, rng.uniform(0.2, 0.5) * height, rng.uniform(0.08, 0.22) * height
        bumps = [(x + wide * i / 9, horizon - tall * np.sin(np.pi * i / 9) * rng.uniform(0.6, 1)) for i in range(10)]
        draw.polygon([(x, horizon), *bumps, (x + wide, horizon)], fill=shaded(palette.ground, 0.7))
    return image


def forest(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Trunks at three distances, with leaves above and undergrowth below."""
    image = Image.fromarray(
        ramp(noise(rng, width, height, 7), [shaded(palette.middle, 0.7), palette.middle, palette.light])
    )
    for distance in (0.75, 0.45, 0.0):
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(7, 13))):
            x, w = rng.uniform(0, 1) * width, height * (0.025 + 0.06 * (1 - distance)) * rng.uniform(0.6, 1.3)
            colour = blend(blend(palette.dark, palette.ground, rng.uniform(0.2, 0.8)), palette.light, distance * 0.8)
            lean = rng.uniform(-0.05, 0.05) * height
            draw.polygon([(x, 0), (x + w * 0.7, 0), (x + w + lean, height), (x - w * 0.3 + lean, height)], fill=colour)
            draw.line((x + w * 0.2, 0, x + w * 0.2 + lean, height), fill=shaded(colour, 1.35), width=max(1, int(w / 6)))
        if distance:
            image = image.filter(ImageFilter.GaussianBlur(height * 0.006 * distance))
    draw = ImageDraw.Draw(image)
    for _ in range(700):
        top = rng.random() < 0.6
        x, y = rng.uniform(0, 1) * width, (rng.beta(1, 4) if top else 1 - rng.beta(1, 6)) * height
        r = rng.uniform(0.008, 0.03) * height
        colour = shaded(blend(palette.middle, pick(rng, palette.accents), rng.uniform(0, 0.3)), rng.uniform(0.5, 1.2))
        draw.ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=colour)
    return image


def dunes(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Wind-blown ridges with a lit and a shaded side, and ripples."""
    warp = noise(rng, width, height, 2.5, stretch=2, octaves=3)
    y = vertical(height, width)
    phase = (y**0.7 * rng.uniform(4, 7) + warp * rng.uniform(1.5, 3)) % 1.0
    ripple = 0.5 + 0.5 * np.sin((y * 140 + warp * 60) * (1.2 - y))
    light = np.clip(1 - phase * 1.3, 0, 1) * 0.8 + ripple * 0.12
    sand = ramp(light, [shaded(palette.ground, 0.55), palette.ground, blend(palette.light, palette.middle, 0.3)])
    top = int(height * rng.uniform(0.12, 0.3))
    edge = top + (profile(rng, width, 3) - 0.5) * height * 0.14
    sky = ramp(vertical(height, width), [palette.middle, palette.light, palette.light])
    over = np.arange(height)[:, None] < edge[None]
    sand[over] = sky[over]
    return Image.fromarray(sand)


def reef(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Under water: rays of light from above, corals and weeds on the ground."""
    deep = blend(palette.dark, (10, 70, 110), 0.4)
    pixels = ramp(vertical(height, width), [blend(palette.light, (90, 200, 210), 0.5), palette.middle, deep])
    rays = noise(rng, width, height, 0.6, stretch=0.12, octaves=3)
    pixels = grained(pixels, rays * (1 - vertical(height, width) * 0.7), 0.55)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for _ in range(45):
        x, base = rng.uniform(0, 1) * width, height * rng.uniform(0.8, 1.02)
        colour = shaded(pick(rng, palette.accents), rng.uniform(0.5, 1.0))
        if rng.random() < 0.5:
            for _ in range(12):
                angle, reach = rng.uniform(-1.2, 1.2), rng.uniform(0.05, 0.2) * height
                tip = (x + np.sin(angle) * reach, base - np.cos(angle) * reach)
                draw.line((x, base, *tip), fill=colour, width=max(2, height // 70))
                draw.ellipse((tip[0] - 4, tip[1] - 4, tip[0] + 4, tip[1] + 4), fill=shaded(colour, 1.3))
        else:
            heights = np.linspace(0, rng.uniform(0.15, 0.45) * height, 12)
            sway = np.sin(heights / height * 18 + rng.uniform(0, 6)) * height * 0.02
            draw.line([(x + s, base - h) for s, h in zip(sway, heights, strict=True)], fill=colour, width=height // 50)
    floor = np.asarray(image).copy()
    edge = height * 0.93 - profile(rng, width, 3) * height * 0.08
    below = np.arange(height)[:, None] >= edge[None]
    floor[below] = ramp(noise(rng, width, height, 25), [shaded(palette.ground, 0.6), palette.ground])[below]
    return Image.fromarray(floor)


def galaxy(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Stars, coloured clouds of gas and planets."""
    gas = np.clip(noise(rng, width, height, 2.5, octaves=6) * 2 - 0.75, 0, 1)
    second = np.clip(noise(rng, width, height, 3, octaves=5) * 2 - 0.9, 0, 1)[..., None]
    clouds = ramp(gas, [shaded(palette.dark, 0.35), shaded(palette.middle, 0.6), palette.accents[2]])
    pixels = clouds * (1 - second * 0.8) + np.asarray(palette.accents[0]) * second * 0.8
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(500):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), abs(rng.normal(0, height * 0.003)) + 0.4
        draw.ellipse((x - r, y - r, x + r, y + r), fill=shaded((255, 250, 235), rng.uniform(0.5, 1)))
    for _ in range(int(rng.integers(1, 4))):
        r = int(rng.uniform(0.06, 0.2) * height)
        size = 2 * r
        bands = ramp(noise(rng, size, size, 4, stretch=6), [palette.dark, pick(rng, palette.accents), palette.light])
        y, x = np.mgrid[0:size, 0:size] / r - 1
        lit = np.clip(0.15 + np.clip(0.75 - 0.6 * x - 0.5 * y, 0, 1.1), 0, 1)[..., None]
        mask = Image.fromarray(((x**2 + y**2 < 1) * 255).astype(np.uint8))
        where = (int(rng.uniform(0, width - size)), int(rng.uniform(0, height - size)))
        image.paste(Image.fromarray((bands * lit).astype(np.uint8)), where, mask)
    return image


def marble(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Polished stone: veins that wander through folded layers."""
    warp = noise(rng, width, height, 3, octaves=6)
    fine = noise(rng, width, height, 5, octaves=5)
    y, x = np.mgrid[0:height, 0:width] / height
    angle = rng.uniform(0, np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(2, 5) + warp * rng.uniform(2, 5)
    veins = np.abs(np.sin(along * np.pi)) ** rng.uniform(0.25, 0.6)
    colours = [palette.dark, pick(rng, palette.accents), palette.light, palette.light, palette.middle]
    return Image.fromarray(grained(ramp(veins * 0.75 + fine * 0.25, colours), fine, 0.15))


def meadow(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Flowers seen from above, in patches of grass."""
    grass = noise(rng, width, height, 6, octaves=5)
    base = blend(palette.ground, (70, 130, 50), 0.6)
    pixels = ramp(grass, [shaded(base, 0.45), base, blend(base, palette.light, 0.5)])
    image = Image.fromarray(grained(pixels, noise(rng, width, height, 60, stretch=0.4, octaves=2), 0.35))
    draw = ImageDraw.Draw(image)
    kinds = [(pick(rng, palette.accents), int(rng.integers(4, 9))) for _ in range(3)]
    patch = noise(rng, width, height, 3)
    for _ in range(420):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        colour, petals = kinds[min(2, int(patch[min(height - 1, int(y)), min(width - 1, int(x))] * 3))]
        r, turn = rng.uniform(0.008, 0.026) * height, rng.uniform(0, 6)
        for petal in range(petals):
            angle = turn + petal * 2 * np.pi / petals
            px, py = x + np.cos(angle) * r, y + np.sin(angle) * r
            draw.ellipse((px - r * 0.6, py - r * 0.6, px + r * 0.6, py + r * 0.6), fill=colour)
        draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=shaded(palette.accents[1], 1.1))
    return image


def pines(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Image.Image:
    """Pines on a white slope, small ones far away and large ones near."""
    snow = noise(rng, width, height, 3, stretch=3)
    sky = ramp(vertical(height, width), [palette.middle, palette.light])
    white = ramp(snow, [blend(palette.light, palette.middle, 0.35), (250, 252, 255)])
    edge = height * rng.uniform(0.3, 0.45) + (profile(rng, width, 3) - 0.5) * height * 0.3
    below = np.arange(height)[:, None] >= edge[None]
    sky[below] = white[below]
    image = Image.fromarray(sky)
    draw = ImageDraw.Draw(image)
    for depth in np.sort(rng.uniform(0, 1, 55)):
        x, base = rng.uniform(0, 1) * width, height * (0.38 + 0.62 * depth)
        tall = height * (0.07 + 0.3 * depth) * rng.uniform(0.7, 1.2)
        colour = blend(palette.middle, blend(palette.dark, (20, 70, 45), 0.5), 0.25 + 0.75 * depth)
        for tier in range(4):
            y, half = base - tall * (0.1 + tier * 0.22), tall * (0.3 - tier * 0.055)
            draw.polygon([(x - half, y), (x + half, y), (x, y - tall * 0.34)], fill=colour)
            draw.polygon([(x - half, y), (x - half * 0.2, y), (x, y - tall * 0.34)], fill=shaded(colour, 1.35))
    return image


NATURE = {painter.__name__: painter for painter in (mountains, sea, forest, dunes, reef, galaxy, marble, meadow, pines)}
