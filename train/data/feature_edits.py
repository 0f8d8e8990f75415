"""Edits of a video at the level of its frame features, for training without labels or on top of edited copies.

They imitate what editing does to a sequence of frame features: a part is cut out (crop in time), it plays faster or
slower (speed), parts are missing (drop) or in another order (shuffle), and every picture changed a little (noise).
Each function takes and returns float32 [T, D] and needs a numpy generator; the same generator gives the same edit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError

Frames = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FeatureEdits:
    """How strongly to edit."""

    min_crop: float
    """Shortest share of the frames that a crop keeps, 0 to 1."""
    max_speed: float
    """Largest factor of speed, and of slowness."""
    max_drop: float
    """Largest share of frames missing in one segment."""
    shuffle_segments: int
    """Segments put in random order; 1 leaves the order alone."""
    noise: float
    """Length of the noise added to a frame, relative to the frame's own length."""
    shared_noise: float
    """Length of one noise vector added to all frames of the video: a filter or a logo changes all pictures alike."""
    probability: float = 0.5
    """Chance of each kind of edit, for each view."""


STRENGTHS: dict[str, FeatureEdits | None] = {
    "none": None,
    "light": FeatureEdits(min_crop=0.7, max_speed=1.25, max_drop=0.2, shuffle_segments=1, noise=0.2, shared_noise=0.2),
    "medium": FeatureEdits(min_crop=0.5, max_speed=1.6, max_drop=0.3, shuffle_segments=3, noise=0.4, shared_noise=0.4),
    "strong": FeatureEdits(min_crop=0.3, max_speed=2.0, max_drop=0.4, shuffle_segments=5, noise=0.7, shared_noise=0.7),
}


def edits_of_strength(name: str) -> FeatureEdits | None:
    """The edits called ``name`` in `STRENGTHS`. Raises UsageError for any other name."""
    if name not in STRENGTHS:
        raise UsageError(f"--feature-edits {name!r} is unknown; choose one of {', '.join(STRENGTHS)}")
    return STRENGTHS[name]


def crop(frames: Frames, min_share: float, rng: np.random.Generator) -> Frames:
    """A random contiguous part that keeps at least ``min_share`` of the frames, and at least one."""
    length = max(1, round(len(frames) * rng.uniform(min_share, 1.0)))
    start = int(rng.integers(0, len(frames) - length + 1))
    return frames[start : start + length]


def speed(frames: Frames, max_factor: float, rng: np.random.Generator) -> Frames:
    """Played faster or slower by a factor up to ``max_factor`` (log-uniform): frames are left out or repeated."""
    factor = float(np.exp(rng.uniform(-np.log(max_factor), np.log(max_factor))))
    length = max(1, round(len(frames) / factor))
    index = np.minimum((np.arange(length) * (len(frames) / length)).astype(np.int64), len(frames) - 1)
    return frames[index]


def drop(frames: Frames, max_share: float, rng: np.random.Generator) -> Frames:
    """One segment of up to ``max_share`` of the frames missing; at least one frame stays."""
    length = min(round(len(frames) * rng.uniform(0.0, max_share)), len(frames) - 1)
    start = int(rng.integers(0, len(frames) - length + 1))
    return np.concatenate([frames[:start], frames[start + length :]])


def shuffle(frames: Frames, segments: int, rng: np.random.Generator) -> Frames:
    """Cut into ``segments`` parts of about equal length, put in random order."""
    parts = np.array_split(np.arange(len(frames)), min(segments, len(frames)))
    order = rng.permutation(len(parts))
    return frames[np.concatenate([parts[position] for position in order])]


def noise(frames: Frames, share: float, shared_share: float, rng: np.random.Generator) -> Frames:
    """Gaussian noise, of its own for each frame and shared by all, relative to each frame's length, which is kept."""
    length_T1 = np.linalg.norm(frames, axis=1, keepdims=True)
    scale = 1.0 / np.sqrt(frames.shape[1])
    own = rng.standard_normal(frames.shape, dtype=np.float32) * (share * scale * rng.uniform())
    all_alike = rng.standard_normal((1, frames.shape[1]), dtype=np.float32) * (shared_share * scale * rng.uniform())
    return _with_lengths_of(frames, frames + (own + all_alike) * length_T1)


def relocate(anchor: Frames, positive: Frames, rng: np.random.Generator) -> tuple[Frames, Frames]:
    """Move a pair to a random place in feature space: the scene becomes a new one, what sets the two apart stays.

    Both lose the middle of their two means and get a random vector of the same length instead; frames keep their own
    length. From few scenes a model would otherwise learn to tell just these apart: with ever new places it has to
    learn what edits do. It fits whitened features, whose directions all matter alike.

    Args:
        anchor, positive: float32 [T, D] and [U, D].
        rng: of the place.

    Returns:
        Both, moved alike, float32.
    """
    middle = (anchor.mean(axis=0) + positive.mean(axis=0)) / 2
    place = rng.standard_normal(len(middle), dtype=np.float32)
    place *= np.linalg.norm(middle) / max(float(np.linalg.norm(place)), 1e-12)
    return _with_lengths_of(anchor, anchor + (place - middle)), _with_lengths_of(positive, positive + (place - middle))


def _with_lengths_of(old: Frames, new: Frames) -> Frames:
    """``new`` with each row scaled to the length of ``old``'s; both [T, D]."""
    target_T1 = np.linalg.norm(old, axis=1, keepdims=True)
    return (new * (target_T1 / np.maximum(np.linalg.norm(new, axis=1, keepdims=True), 1e-12))).astype(np.float32)


def edit(frames: Frames, edits: FeatureEdits | None, rng: np.random.Generator) -> Frames:
    """Apply each kind of edit with its probability; None edits nothing.

    Args:
        frames: float32 [T, D], T at least 1.
        edits: strengths.
        rng: where all choices come from.

    Returns:
        float32 [T', D], T' at least 1.
    """
    if edits is None:
        return frames
    if rng.uniform() < edits.probability:
        frames = crop(frames, edits.min_crop, rng)
    if rng.uniform() < edits.probability:
        frames = speed(frames, edits.max_speed, rng)
    if rng.uniform() < edits.probability:
        frames = drop(frames, edits.max_drop, rng)
    if rng.uniform() < edits.probability and edits.shuffle_segments > 1:
        frames = shuffle(frames, edits.shuffle_segments, rng)
    if rng.uniform() < edits.probability:
        frames = noise(frames, edits.noise, edits.shared_noise, rng)
    return frames
