"""From clips to features: decoded frames are gathered into batches across clips, encoded, and given back per clip."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..core.engine.environment import read_launch
from ..core.errors import DataError, UsageError
from .encoders import Encoder
from .pca import PCA
from .prefetch import Item, Pick, Source, decode_ahead
from .store import to_float16

COMPARED = ("name", "weights_sha256", "preprocessing", "dim")
"""The keys of an encoder's info that must agree where features meet (a PCA, a query)."""


@dataclass
class Described:
    """A clip's features, or why it has none.

    Attributes:
        key: of its source.
        features: float32 [T, D].
        times: float64 [T] seconds from the clip's first picture.
        error: set when the clip is damaged; then features and times hold nothing.
    """

    key: str
    features: np.ndarray
    times: np.ndarray
    error: DataError | None = None


@dataclass
class _Open:
    key: str
    features: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    error: DataError | None = None
    ended: bool = False


class Describer:
    """Encoder, optional PCA and sampling in one: what turns videos into the features of a store.

    Args:
        encoder: from `encoders.build_encoder`.
        pca: applied after it, or None.
        fps: frames per second, by time stamp.
        batch_frames: frames per forward pass; frames of several clips share a batch when they are equally large.
        decode_threads: clips decoded at the same time, beside the encoder.

    Raises:
        UsageError: the PCA was fitted on features of another encoder, or a number is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        pca: PCA | None = None,
        *,
        fps: float = 1.0,
        batch_frames: int = 32,
        decode_threads: int = 1,
    ) -> None:
        if not 0 < fps <= 240:
            raise UsageError(f"--fps is {fps}; give frames per second above 0, at most 240")
        if batch_frames < 1 or decode_threads < 1:
            raise UsageError(
                f"--batch-frames {batch_frames}, --decode-threads {decode_threads}: both must be at least 1"
            )
        self.encoder = encoder
        self.pca = check_pca(pca, encoder).to(encoder.device) if pca else None
        self.fps = fps
        self.batch_frames = batch_frames
        self.decode_threads = decode_threads
        self.frames_encoded = 0

    @property
    def dim(self) -> int:
        """Length of a feature."""
        return self.pca.dim if self.pca else self.encoder.dim

    def describe(self, sources: Iterable[Source], pick: Pick | None = None) -> Iterator[Described]:
        """Features of clips, in the order of ``sources``, as soon as each is complete.

        A damaged clip ends as a `Described` with ``error``; the frames before its damage are dropped, and its
        neighbours come out as without it. Batches depend on the order of the frames only, never on timing.

        Args:
            sources: see `prefetch.decode_ahead`.
            pick: keep only some frames of each clip.
        """
        clips: deque[_Open] = deque()
        batch: list[tuple[_Open, np.ndarray]] = []
        held = 0
        for key, item in self._decoded(sources, pick):
            if not clips or clips[-1].ended:
                clips.append(_Open(key))
            clip = clips[-1]
            if isinstance(item, DataError):
                clip.error = item
            elif item is None:
                clip.ended = True
            else:
                other_size = bool(batch) and batch[0][1].shape[1:] != item.frames.shape[1:]
                if other_size or held + len(item.frames) > self.batch_frames:
                    self._encode(batch)
                    held = 0
                batch.append((clip, item.frames))
                held += len(item.frames)
                clip.times.append(item.times)
            while clips and clips[0].ended and len(clips[0].features) == len(clips[0].times):
                yield self._close(clips.popleft())
        self._encode(batch)
        for clip in clips:
            yield self._close(clip)

    def _decoded(self, sources: Iterable[Source], pick: Pick | None) -> Iterator[tuple[str, Item]]:
        return decode_ahead(
            sources,
            self.encoder.preprocessing,
            self.fps,
            chunk_frames=min(8, self.batch_frames),
            threads=self.decode_threads,
            pick=pick,
        )

    def _encode(self, batch: list[tuple[_Open, np.ndarray]]) -> None:
        if not batch:
            return
        features = self.encoder.encode(np.concatenate([frames for _, frames in batch]))
        if self.pca:
            features = self.pca.apply(features)
        rows = features.cpu().numpy()
        self.frames_encoded += len(rows)
        first = 0
        for clip, frames in batch:
            clip.features.append(rows[first : first + len(frames)])
            first += len(frames)
        batch.clear()

    def _close(self, clip: _Open) -> Described:
        if clip.error is not None or not clip.features:
            return Described(clip.key, np.zeros((0, self.dim), np.float32), np.zeros(0), clip.error)
        return Described(clip.key, np.concatenate(clip.features), np.concatenate(clip.times))


def check_pca(pca: PCA, encoder: Encoder) -> PCA:
    """Raise UsageError unless ``pca`` fits the encoder's features; returns it."""
    fitted = pca.info.get("encoder")
    if fitted:
        for key in COMPARED:
            if fitted.get(key) != encoder.info.get(key):
                raise UsageError(
                    f"--pca was fitted on another encoder's features: {key} was {fitted.get(key)!r}, is "
                    f"{encoder.info.get(key)!r} now; use the same encoder, or fit another PCA with extract/fit_pca.py"
                )
    if pca.input_dim != encoder.dim:
        raise UsageError(f"--pca takes {pca.input_dim} dimensions, the encoder gives {encoder.dim}; fit another one")
    return pca


def join_clips(parts: Sequence[Described], starts: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Put the clips of one video together.

    Args:
        parts: its clips in order of time.
        starts: where each begins in the video, seconds.

    Returns:
        features float16 [T, D] and times float64 [T], seconds from the video's first picture, not falling.

    Raises:
        DataError: a clip is damaged, or its features do not fit float16.
    """
    for part in parts:
        if part.error is not None:
            raise part.error
    features = to_float16(np.concatenate([part.features for part in parts]))
    seconds = np.concatenate([part.times + start for part, start in zip(parts, starts, strict=True)])
    # Clips are cut at keyframes; a container's rounding may let one begin a moment before the one before it ended.
    return features, np.maximum.accumulate(seconds)


def use_share_of_cores() -> int:
    """Let torch use this rank's share of the machine's cores; launchers leave every rank with one or with all.

    Returns:
        The number of threads.
    """
    share = max(1, len(os.sched_getaffinity(0)) // max(1, read_launch().local_size))
    torch.set_num_threads(share)
    return share
