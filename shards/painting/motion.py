"""How the procedural scenes move: the camera's path over a painted world, the paths of objects, light and weather.

Places are in view heights, measured from the middle of the world, x to the right and y down. ``u`` runs from 0 to 1
over a shot, ``t`` in seconds from its beginning. Angles are in radians, clockwise on the screen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .paint import noise

WORLD_SCALE = 1.9
"""The painted world is this many times as wide and as high as the view: room for the camera to travel."""
MAX_TILT = 0.22
MIN_ZOOM = 0.8


@dataclass(frozen=True)
class View:
    """What the camera sees at one moment: its middle, its zoom (2: everything twice as large) and its tilt."""

    x: float
    y: float
    zoom: float
    angle: float


@dataclass(frozen=True)
class Camera:
    """A travelling camera: from one view to another, with hand shake and sway on top."""

    start: View
    end: View
    eased: bool
    shake: float
    """Amplitude of the shake in view heights."""
    sway: float
    """Amplitude of a slow roll in radians."""
    phases: tuple[float, ...]

    @staticmethod
    def drawn(rng: np.random.Generator, aspect: float) -> Camera:
        """A camera with some of: pan, zoom, rotation, shake, sway; never standing still."""
        moves = set(rng.choice(["pan", "pan", "zoom", "turn", "shake", "sway"], size=int(rng.integers(2, 5))))
        reach = 0.7 * (WORLD_SCALE - 1) / 2
        x, y = rng.uniform(-reach, reach) * aspect, rng.uniform(-reach, reach)
        far = -rng.uniform(0.4, 1.3) if "pan" in moves else 1.0
        zoom, angle = rng.uniform(0.85, 1.35), rng.uniform(-0.08, 0.08)
        end_zoom = zoom * (rng.choice([0.65, 1.6]) if "zoom" in moves else 1.0)
        end_angle = angle + (rng.choice([-0.28, 0.28]) if "turn" in moves else 0.0)
        return Camera(
            View(x, y, zoom, angle),
            View(x * far, y * far, end_zoom, end_angle),
            bool(rng.random() < 0.5),
            float(rng.uniform(0.006, 0.02)) if "shake" in moves else 0.0,
            float(rng.uniform(0.05, 0.12)) if "sway" in moves else 0.0,
            tuple(rng.uniform(0, 2 * np.pi, 6)),
        )

    def at(self, u: float, t: float, aspect: float) -> View:
        """The view at a moment, kept inside the painted world."""
        share = u * u * (3 - 2 * u) if self.eased else u
        mixed = [
            first + (last - first) * share
            for first, last in (
                (self.start.x, self.end.x),
                (self.start.y, self.end.y),
                (self.start.zoom, self.end.zoom),
                (self.start.angle, self.end.angle),
            )
        ]
        shake_x = np.sin(t * 9.1 + self.phases[0]) + 0.7 * np.sin(t * 17.3 + self.phases[1])
        shake_y = np.sin(t * 10.7 + self.phases[2]) + 0.7 * np.sin(t * 19.9 + self.phases[3])
        angle = np.clip(mixed[3] + self.sway * np.sin(t * 1.7 + self.phases[4]), -MAX_TILT, MAX_TILT)
        zoom = max(MIN_ZOOM, mixed[2])
        # Half of the box around the tilted view; it must not leave the world.
        half_x = (abs(np.cos(angle)) * aspect + abs(np.sin(angle))) / 2 / zoom
        half_y = (abs(np.cos(angle)) + abs(np.sin(angle)) * aspect) / 2 / zoom
        limit_x, limit_y = max(0.0, WORLD_SCALE * aspect / 2 - half_x), max(0.0, WORLD_SCALE / 2 - half_y)
        x = np.clip(mixed[0] + self.shake * shake_x, -limit_x, limit_x)
        y = np.clip(mixed[1] + self.shake * shake_y, -limit_y, limit_y)
        return View(float(x), float(y), float(zoom), float(angle))


PATHS = ("drift", "orbit", "bounce", "zigzag", "fall", "hop")


@dataclass(frozen=True)
class Path:
    """The path of one object relative to the middle of the camera's path."""

    kind: str
    x: float
    y: float
    speed: float
    """View heights a second; its sign is the direction."""
    size: float
    """Amplitude in view heights of what is not straight in the path."""
    phase: float
    spin: float
    """Turns of the object itself, radians a second."""

    @staticmethod
    def drawn(rng: np.random.Generator, kind: str, aspect: float) -> Path:
        """A path of the kind, somewhere in the view."""
        return Path(
            kind,
            float(rng.uniform(-0.45, 0.45) * aspect),
            float(rng.uniform(-0.4, 0.4)),
            float(rng.uniform(0.08, 0.45) * rng.choice([-1, 1])),
            float(rng.uniform(0.08, 0.35)),
            float(rng.uniform(0, 2 * np.pi)),
            float(rng.normal(0, 0.8)) if rng.random() < 0.35 else 0.0,
        )

    def at(self, t: float, aspect: float) -> tuple[float, float, float]:
        """x, y and angle at ``t``; straight paths come back in on the other side."""
        span = 1.3
        along = t * self.speed
        x, y = self.x, self.y
        if self.kind == "orbit":
            x += self.size * np.cos(self.phase + along * 5)
            y += self.size * np.sin(self.phase + along * 5)
        elif self.kind == "fall":
            x += 0.3 * self.size * np.sin(3 * t + self.phase)
            y = (self.y + abs(along) + span / 2) % span - span / 2
        else:
            wide = span * aspect
            x = (self.x + along + wide / 2) % wide - wide / 2
            if self.kind == "bounce":
                y = 0.4 - self.size * 2 * abs(np.sin(t * 2.6 + self.phase))
            elif self.kind == "zigzag":
                y += self.size * (2 * abs((t * 0.9 + self.phase) % 2 - 1) - 1)
            elif self.kind == "hop":
                y -= 0.5 * self.size * max(0.0, np.sin(t * 5 + self.phase))
        return float(x), float(y), self.spin * t


LIGHTS = ("steady", "steady", "dawn", "flicker", "clouds", "spotlight", "warm-to-cold")


class Light:
    """Light that changes over a shot; ``kind`` is one of `LIGHTS`."""

    def __init__(self, rng: np.random.Generator, kind: str, width: int, height: int) -> None:
        self.kind = kind
        self._phase, self._sign = rng.uniform(0, 6), int(rng.choice([-1, 1]))
        self._shadow = noise(rng, 2 * width, height, 1.5, octaves=2) if kind == "clouds" else None
        self._y, self._x = np.mgrid[0:height, 0:width].astype(np.float32) / height

    def on(self, pixels: np.ndarray, u: float, t: float) -> np.ndarray:
        """Pixels uint8 [H, W, 3] under the light of that moment."""
        if self.kind == "dawn":
            return _times(pixels, 0.8 + 0.4 * self._sign * (u - 0.5) * 1.6)
        if self.kind == "flicker":
            return _times(pixels, 0.9 + 0.16 * np.sin(t * 11 + self._phase) * np.sin(t * 3.1))
        if self.kind == "warm-to-cold":
            shift = self._sign * (u - 0.5) * 0.5
            return _times(pixels, np.array([1 + shift, 1.0, 1 - shift]))
        if self.kind == "clouds" and self._shadow is not None:
            width = pixels.shape[1]
            start = int(u * (self._shadow.shape[1] - width))
            return _times(pixels, 0.5 + 0.75 * self._shadow[:, start : start + width, None])
        if self.kind == "spotlight":
            aspect = pixels.shape[1] / pixels.shape[0]
            x, y = aspect * (0.5 + 0.35 * np.sin(t * 0.8 + self._phase)), 0.5 + 0.25 * np.cos(t * 1.1)
            distance = np.hypot(self._x - x, self._y - y)
            return _times(pixels, (0.4 + 0.8 * np.exp(-((distance / 0.4) ** 2)))[..., None])
        return pixels


def _times(pixels: np.ndarray, gain: float | np.ndarray) -> np.ndarray:
    return np.clip(pixels * np.asarray(gain, np.float32), 0, 255).astype(np.uint8)


WEATHER = ("none", "none", "none", "rain", "snow", "motes")


class Weather:
    """Drops, flakes or motes in front of the camera; ``kind`` is one of `WEATHER`."""

    def __init__(self, rng: np.random.Generator, kind: str) -> None:
        self.kind = kind
        count = {"none": 0, "rain": 110, "snow": 130, "motes": 45}[kind]
        self._drops = rng.uniform(0, 1, (count, 4))
        self._wind = rng.uniform(-0.25, 0.25)

    def on(self, image: Image.Image, t: float) -> None:
        """Draw what falls at ``t`` onto the image."""
        width, height = image.size
        draw = ImageDraw.Draw(image, "RGBA")
        for x, y, near, phase in self._drops:
            if self.kind == "rain":
                left = (x + t * self._wind) % 1 * width
                top = ((y + t * (1.4 + near)) % 1.1 - 0.05) * height
                draw.line(
                    (left, top, left + self._wind * 20, top + height * (0.03 + 0.04 * near)), (220, 230, 245, 120)
                )
                continue
            radius = height * (0.004 + 0.009 * near) * (2.5 if self.kind == "motes" else 1.0)
            fall = 0.12 + 0.2 * near if self.kind == "snow" else -0.05
            left = (x + t * self._wind * 0.6 + 0.02 * np.sin(2 * t + phase * 6)) % 1 * width
            top = (y + t * fall) % 1 * height
            colour = (255, 255, 255, 210) if self.kind == "snow" else (255, 235, 170, 90)
            draw.ellipse((left - radius, top - radius, left + radius, top + radius), colour)
