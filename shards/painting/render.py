"""Procedural scenes: what scene number ``index`` of a seed is, and its pictures.

A scene is one to three shots. A shot is a painted world, a camera that travels over it, objects with paths of their
own, light and weather. Everything follows from (seed, index): scene 7 is the same whether 8 or 800 are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...core.seeds import generator
from .motion import LIGHTS, PATHS, WEATHER, WORLD_SCALE, Camera, Light, Path, View, Weather
from .nature import NATURE
from .objects import PAINTERS, painted
from .paint import PALETTES, jittered, pick
from .patterns import PATTERNS
from .places import PLACES

WORLDS = {**NATURE, **PLACES, **PATTERNS}
SHOT_CHANCES = (0.55, 0.3, 0.15)
"""Chances of one, two and three shots."""
MIN_SHOT_SECONDS = 1.5


@dataclass(frozen=True)
class ShotPlan:
    """One shot: which world, from when to when."""

    world: str
    palette: str
    painting: int
    """Shots of a scene with the same number show the same painted world."""
    start_seconds: float
    end_seconds: float
    number: int


@dataclass(frozen=True)
class ScenePlan:
    """What a scene shows; ``shots`` follow one another without a gap."""

    seed: int
    index: int
    seconds: float
    shots: tuple[ShotPlan, ...]

    @property
    def scene_id(self) -> str:
        """The scene's name: its number and its first world ("scene-003-forest")."""
        return f"scene-{self.index:03d}-{self.shots[0].world.replace('_', '-')}"


def plan_scene(seed: int, index: int, seconds: float = 8.0) -> ScenePlan:
    """Decide what scene ``index`` shows.

    Each run of as many scenes as there are kinds of world has every kind once as its first shot; later shots and
    palettes are drawn freely, so that scenes share both.
    """
    block, place = divmod(index, len(WORLDS))
    worlds = list(WORLDS)
    first = worlds[int(generator("scene order", seed, block).permutation(len(worlds))[place])]
    rng = generator("scene plan", seed, index)
    count = min(1 + int(rng.choice(3, p=SHOT_CHANCES)), max(1, int(seconds / MIN_SHOT_SECONDS)))
    cuts = np.cumsum(rng.uniform(0.7, 1.3, count))
    ends = cuts / cuts[-1] * seconds
    shots: list[ShotPlan] = []
    world, palette, painting = first, PALETTES[int(rng.integers(len(PALETTES)))].name, 0
    for number, end in enumerate(ends):
        if number and rng.random() < 0.5:
            world, painting = worlds[int(rng.integers(len(worlds)))], number
            palette = PALETTES[int(rng.integers(len(PALETTES)))].name
        start = shots[-1].end_seconds if shots else 0.0
        shots.append(ShotPlan(world, palette, painting, start, float(end), number))
    return ScenePlan(seed, index, seconds, tuple(shots))


def scene_frames(plan: ScenePlan, width: int, height: int, fps: float) -> Iterator[np.ndarray]:
    """The scene's pictures, one each ``1 / fps`` seconds.

    Yields:
        uint8 [height, width, 3], RGB; ``round(seconds * fps)`` of them, at least one.
    """
    count = max(1, round(plan.seconds * fps))
    shot: Shot | None = None
    for number in range(count):
        t = number / fps
        current = next((one for one in plan.shots if t < one.end_seconds), plan.shots[-1])
        if shot is None or shot.plan is not current:
            shot = Shot(plan, current, width, height)
        yield shot.frame(t - current.start_seconds)


@dataclass(frozen=True)
class _Thing:
    picture: Image.Image
    path: Path
    faces_left: bool


class Shot:
    """A shot ready to be drawn: worlds and objects are painted once.

    Args:
        scene, plan: the scene and which of its shots.
        width, height: size of the pictures in pixels.
    """

    def __init__(self, scene: ScenePlan, plan: ShotPlan, width: int, height: int) -> None:
        self.plan, self.width, self.height = plan, width, height
        self.aspect = width / height
        painting = generator("painting", scene.seed, scene.index, plan.painting)
        palette = jittered(next(one for one in PALETTES if one.name == plan.palette), painting)
        size = (round(width * WORLD_SCALE), round(height * WORLD_SCALE))
        self.world = WORLDS[plan.world](painting, *size, palette)
        rng = generator("shot", scene.seed, scene.index, plan.number)
        self.camera = Camera.drawn(rng, self.aspect)
        self.light = Light(rng, str(rng.choice(LIGHTS)), width, height)
        self.weather = Weather(rng, str(rng.choice(WEATHER)))
        kinds = [str(kind) for kind in rng.choice(list(PAINTERS), size=int(rng.integers(1, 4)), replace=False)]
        paths = [str(path) for path in rng.choice(PATHS, size=2, replace=False)]
        self.things: list[_Thing] = []
        for number in range(int(rng.integers(3, 8))):
            pixels = max(8, round(height * float(rng.uniform(0.13, 0.38))))
            colours = (*palette.accents, palette.middle)
            first, second = pick(rng, colours), pick(rng, palette.accents)
            picture = painted(kinds[number % len(kinds)], pixels, first, palette.dark if first == second else second)
            path = Path.drawn(rng, paths[number % len(paths)], self.aspect)
            self.things.append(_Thing(picture, path, path.speed < 0))

    def frame(self, t: float) -> np.ndarray:
        """The picture ``t`` seconds into the shot: uint8 [height, width, 3], RGB."""
        u = min(1.0, max(0.0, t / (self.plan.end_seconds - self.plan.start_seconds)))
        view = self.camera.at(u, t, self.aspect)
        image = self._seen(view)
        middle = self.camera.at(0.5, 0.0, self.aspect)
        for thing in self.things:
            x, y, angle = thing.path.at(t, self.aspect)
            self._place(image, thing, View(x + middle.x, y + middle.y, 1.0, angle), view)
        pixels = self.light.on(np.asarray(image), u, t)
        if self.weather.kind == "none":
            return np.ascontiguousarray(pixels)
        image = Image.fromarray(pixels)
        self.weather.on(image, t)
        return np.asarray(image).copy()

    def _seen(self, view: View) -> Image.Image:
        """The world through the camera. Pillow wants the map from the picture to the world."""
        cos, sin = np.cos(view.angle) / view.zoom, np.sin(view.angle) / view.zoom
        x = self.world.width / 2 + view.x * self.height - cos * self.width / 2 + sin * self.height / 2
        y = self.world.height / 2 + view.y * self.height - sin * self.width / 2 - cos * self.height / 2
        size = (self.width, self.height)
        method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return self.world.transform(size, method, (cos, -sin, x, sin, cos, y), resample)

    def _place(self, image: Image.Image, thing: _Thing, where: View, view: View) -> None:
        """Paste an object: turned and sized as the camera sees it, drawn only where it covers the picture."""
        dx, dy = (where.x - view.x) * self.height * view.zoom, (where.y - view.y) * self.height * view.zoom
        cos, sin = np.cos(-view.angle), np.sin(-view.angle)
        centre_x = self.width / 2 + cos * dx - sin * dy
        centre_y = self.height / 2 + sin * dx + cos * dy
        reach = int(np.ceil(thing.picture.width * view.zoom * 0.75))
        left, top = int(centre_x) - reach, int(centre_y) - reach
        if left >= self.width or top >= self.height or left + 2 * reach <= 0 or top + 2 * reach <= 0:
            return
        angle = where.angle - view.angle
        cos, sin = np.cos(angle) / view.zoom, np.sin(angle) / view.zoom
        flip = -1.0 if thing.faces_left else 1.0
        half, cx, cy = thing.picture.width / 2, centre_x - left, centre_y - top
        coefficients = (
            flip * cos,
            flip * sin,
            half - flip * (cos * cx + sin * cy),
            -sin,
            cos,
            half + sin * cx - cos * cy,
        )
        method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        picture = thing.picture.transform((2 * reach, 2 * reach), method, coefficients, resample)
        image.paste(picture, (left, top), picture)
