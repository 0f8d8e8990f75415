"""From items to tensors: windows, feature edits and padding, each keyed by (seed, step, place in the global batch)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.config import super_init
from ...core.errors import ReelkinError, UsageError
from ...core.seeds import generator, seed_of
from .feature_edits import FeatureEdits, Frames, edit, relocate
from .positives import Positives
from .sampling import GlobalSampler, rank_slice
from .sources import WindowSource


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """What of a video a step sees, and what is drawn besides its pairs."""

    feature_edits: Literal["auto", "none", "light", "medium", "strong"] = "auto"
    """Edits of the features (crop, speed, dropped and shuffled parts, noise) on anchors and positives. auto: medium
    without labels, light with copies and pseudo labels, none with pairs or groups."""
    virtual_scenes: float | None = None
    """Share of the pairs that are moved to a random place in feature space, anchor and positive alike, so that few
    scenes teach what edits do rather than what these scenes are. Default: 1 below 500 groups, else 0; 0 with
    supcon."""
    max_frames: int = 128
    """Longer videos are cut to a random window of this many frames in training; validation takes them whole."""
    random_sampling: bool = False
    """Of longer videos, take --max-frames frames drawn with repetition from all of them, as published with this flag,
    in the order of time; off, one window."""
    negatives_per_anchor: int = 0
    """Videos drawn for each anchor besides its positive; they become candidates and enter the queue."""
    num_workers: int = 1
    """Threads of each rank that read and edit batches ahead of the step; 0 makes each when the step begins. The same
    batches come of any number."""

    def __post_init__(self) -> None:
        super_init(ViewSettings, self)
        if self.max_frames < 1 or self.negatives_per_anchor < 0:
            raise UsageError("--max-frames must be at least 1 and --negatives-per-anchor at least 0")
        if self.num_workers < 0:
            raise UsageError(f"--num-workers is {self.num_workers}; a number of threads is 0 or more")
        if self.virtual_scenes is not None and not 0 <= self.virtual_scenes <= 1:
            raise UsageError(f"--virtual-scenes is {self.virtual_scenes}; it is a share of the pairs, 0 to 1")


@dataclass(frozen=True)
class Views:
    """Edited windows of N videos, their frames one after another; `padded` makes of any of them what a model takes.

    Attributes:
        frames: [F, D], F the sum of ``lengths``; float32, or float16 of drawn negatives that are stored so: these are
            many, and nothing edits them, so that they can stay as they are until the model takes them.
        lengths: int64 [N], each at least 1.
        keys: int64 [N], dropout keys.
        videos, groups: int64 [N] and [N, G], see `masks`.
    """

    frames: torch.Tensor
    lengths: torch.Tensor
    keys: torch.Tensor
    videos: torch.Tensor
    groups: torch.Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: torch.Tensor | slice | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Some of the views, padded with zeros to the longest of them.

        Args:
            rows: int64 [n] numbers of views in the order wanted, or a slice; None takes all.

        Returns:
            Features [n, T, D] in the dtype of ``frames``, lengths int64 [n], dropout keys int64 [n], on the views'
            device.
        """
        rows = slice(None) if rows is None else rows
        ends = self.lengths.cumsum(0)
        lengths, starts = self.lengths[rows], (ends - self.lengths)[rows]
        longest = int(lengths.max()) if len(lengths) else 1
        place_T = torch.arange(longest, device=lengths.device)
        inside_nT = place_T < lengths[:, None]
        features = self.frames.new_zeros(len(lengths), longest, self.frames.shape[1])
        features[inside_nT] = self.frames[(starts[:, None] + place_T)[inside_nT]]
        return features, lengths, self.keys[rows]

    def to(self, device: torch.device) -> Views:
        """The same on ``device``."""
        return Views(**{field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)})

    def __repr__(self) -> str:
        return f"Views({len(self)} videos, frames={tuple(self.frames.shape)})"


@dataclass(frozen=True)
class Batch:
    """This rank's slice of one global batch: n anchors, their n positives, and n * neg_num drawn negatives or None."""

    step: int
    anchors: Views
    positives: Views
    negatives: Views | None

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        negatives = None if self.negatives is None else self.negatives.to(device)
        return Batch(self.step, self.anchors.to(device), self.positives.to(device), negatives)


class BatchBuilder:
    """Makes any step's batch; the same arguments give the same bits, in any order and on any number of ranks.

    Args:
        source: frame features.
        positives: items.
        sampler: which items a step takes.
        rank, size: this rank's slice.
        seed: of windows, edits, partners and drawn negatives.
        max_frames: longer videos are cut to a random window of this length.
        edits: feature edits for anchors and positives.
        virtual_scenes: share of the pairs that are moved elsewhere (`feature_edits.relocate`).
        negatives_per_anchor: videos drawn for each anchor besides its positive.
        random_sampling: of longer videos take frames drawn with repetition instead of a window.
        num_workers: threads of `loading.prefetched`.
    """

    def __init__(
        self,
        source: WindowSource,
        positives: Positives,
        sampler: GlobalSampler,
        *,
        rank: int,
        size: int,
        seed: int,
        max_frames: int,
        edits: FeatureEdits | None,
        virtual_scenes: float = 0.0,
        negatives_per_anchor: int = 0,
        random_sampling: bool = False,
        num_workers: int = 1,
    ) -> None:
        self.source, self.positives, self.sampler = source, positives, sampler
        self.own = rank_slice(sampler.batch_size, rank, size)
        self.seed, self.max_frames, self.edits = seed, max_frames, edits
        self.virtual_scenes = virtual_scenes
        self.negatives_per_anchor = negatives_per_anchor
        self.random_sampling, self.num_workers = random_sampling, num_workers

    def build(self, step: int) -> Batch:
        """This rank's slice of global batch ``step``."""
        places = range(self.own.start, self.own.stop)
        items = self.sampler.items(step)[self.own]
        drawn = [
            self.positives.draw(int(item), generator(self.seed, "pair", step, place))
            for item, place in zip(items, places, strict=True)
        ]
        tags = [str(place) for place in places]
        pairs = [self._pair(step, tag, *pair) for tag, pair in zip(tags, drawn, strict=True)]
        anchors, positives = ([pair[side] for pair in drawn] for side in (0, 1))
        ones, others = ([pair[side] for pair in pairs] for side in (0, 1))
        return Batch(
            step,
            self._views(step, "anchor", tags, anchors, ones, list(map(len, ones))),
            self._views(step, "positive", tags, positives, others, list(map(len, others))),
            self._negatives(step, places, anchors) if self.negatives_per_anchor else None,
        )

    def _pair(self, step: int, tag: str, anchor: int, positive: int) -> tuple[Frames, Frames]:
        """Edited windows of an anchor and its positive."""
        pair = (
            self._window(step, "anchor", tag, anchor).astype(np.float32, copy=False),
            self._window(step, "positive", tag, positive).astype(np.float32, copy=False),
        )
        rng = generator(self.seed, "scene", step, tag)
        if rng.uniform() < self.virtual_scenes:
            pair = relocate(*pair, rng)
        one, two = (
            edit(frames, self.edits, generator(self.seed, "edit", step, role, tag))[: self.max_frames]
            for role, frames in zip(("anchor", "positive"), pair, strict=True)
        )
        return one, two

    def _negatives(self, step: int, places: range, anchors: Sequence[int]) -> Views:
        count = self.negatives_per_anchor
        tags = [f"{place} {number}" for place in places for number in range(count)]
        videos = [
            int(video)
            for place, anchor in zip(places, anchors, strict=True)
            for video in self.positives.draw_negatives(anchor, count, generator(self.seed, "negatives", step, place))
        ]
        lengths = [min(self.source.num_frames(self.positives.video_ids[video]), self.max_frames) for video in videos]
        windows = (self._window(step, "negative", tag, video) for tag, video in zip(tags, videos, strict=True))
        return self._views(step, "negative", tags, videos, windows, lengths)

    def _window(self, step: int, role: str, tag: str, video: int) -> NDArray[np.floating]:
        """A video's frames, or of a long one a random window or random frames; [T, D] as stored."""
        video_id, most = self.positives.video_ids[video], self.max_frames
        length = self.source.num_frames(video_id)
        if length < 1:
            raise ReelkinError(f"{video_id!r} has no frame features; extract it again, or leave it out")
        if length <= most:
            return self.source.features(video_id)
        rng = generator(self.seed, "window", step, role, tag)
        if self.random_sampling:
            chosen = np.sort(rng.integers(0, length, most))
            return self.source.features(video_id)[chosen]
        start = int(rng.integers(0, length - most + 1))
        return self.source.features(video_id, start, start + most)

    def _views(
        self,
        step: int,
        role: str,
        tags: Sequence[str],
        videos: Sequence[int],
        windows: Iterable[NDArray[np.floating]],
        lengths: Sequence[int],
    ) -> Views:
        index = np.asarray(videos, dtype=np.int64)
        return Views(
            frames=torch.from_numpy(packed(windows, sum(lengths), self.source.dim)),
            lengths=torch.tensor(lengths, dtype=torch.int64),
            keys=torch.tensor([seed_of(self.seed, "dropout", step, role, tag) for tag in tags], dtype=torch.int64),
            videos=torch.from_numpy(index),
            groups=torch.from_numpy(self.positives.groups[index]),
        )


def packed(windows: Iterable[NDArray[np.floating]], frames: int, dim: int) -> NDArray[np.floating]:
    """Windows [T, D] of ``frames`` frames in all, one after another, none of them held twice: [frames, D].

    float16 if all of them are, else float32.
    """
    out: NDArray[np.floating] = np.empty((frames, dim), dtype=np.float16)
    filled = 0
    for window in windows:
        if window.dtype != np.float16 and out.dtype == np.float16:
            narrow, out = out, np.empty((frames, dim), dtype=np.float32)
            out[:filled] = narrow[:filled]
        out[filled : filled + len(window)] = window
        filled += len(window)
    return out
