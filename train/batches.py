"""From items to tensors: windows, feature edits and padding, each keyed by (seed, step, place in the global batch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.seeds import generator, seed_of
from .feature_edits import FeatureEdits, edit
from .positives import Positives
from .sampling import GlobalSampler, rank_slice


class FeatureSource(Protocol):
    """What training needs of a feature store (`extract.store.FeatureStore` is one)."""

    video_ids: list[str]
    dim: int

    def features(self, video_id: str) -> NDArray[np.floating]:
        """Frame features [T, D]."""
        ...

    def num_frames(self, video_id: str) -> int:
        """T."""
        ...


@dataclass(frozen=True)
class Views:
    """Edited windows of N videos, padded to the longest.

    Attributes:
        features: float32 [N, T, D], zeros past each end.
        lengths: int64 [N].
        keys: int64 [N], dropout keys.
        videos, groups: int64 [N] and [N, G], see `masks`.
    """

    features: torch.Tensor
    lengths: torch.Tensor
    keys: torch.Tensor
    videos: torch.Tensor
    groups: torch.Tensor

    def to(self, device: torch.device) -> Views:
        """The same on ``device``."""
        return Views(**{field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)})

    def __repr__(self) -> str:
        return f"Views(features={tuple(self.features.shape)})"


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
        negatives_per_anchor: videos drawn for each anchor besides its positive.
    """

    def __init__(
        self,
        source: FeatureSource,
        positives: Positives,
        sampler: GlobalSampler,
        *,
        rank: int,
        size: int,
        seed: int,
        max_frames: int,
        edits: FeatureEdits | None,
        negatives_per_anchor: int = 0,
    ) -> None:
        self.source, self.positives, self.sampler = source, positives, sampler
        self.own = rank_slice(sampler.batch_size, rank, size)
        self.seed, self.max_frames, self.edits = seed, max_frames, edits
        self.negatives_per_anchor = negatives_per_anchor

    def build(self, step: int) -> Batch:
        """This rank's slice of global batch ``step``."""
        places = range(self.own.start, self.own.stop)
        items = self.sampler.items(step)[self.own]
        drawn = [
            self.positives.draw(int(item), generator(self.seed, "pair", step, place))
            for item, place in zip(items, places, strict=True)
        ]
        negatives = None
        if self.negatives_per_anchor:
            chosen = [self._draw_negatives(step, place) for place in places]
            videos = [int(video) for row in chosen for video in row]
            labels = [f"negative {place} {number}" for place in places for number in range(self.negatives_per_anchor)]
            negatives = self._views(videos, step, labels, None)
        return Batch(
            step,
            self._views([anchor for anchor, _ in drawn], step, [f"anchor {place}" for place in places], self.edits),
            self._views(
                [positive for _, positive in drawn], step, [f"positive {place}" for place in places], self.edits
            ),
            negatives,
        )

    def _draw_negatives(self, step: int, place: int) -> NDArray[np.int64]:
        pool = self.positives.negatives
        rng = generator(self.seed, "negatives", step, place)
        # Distinct within an anchor as far as the pool allows; a video of the anchor's own group is masked later.
        return rng.choice(pool, self.negatives_per_anchor, replace=self.negatives_per_anchor > len(pool))

    def _views(self, videos: Sequence[int], step: int, roles: Sequence[str], edits: FeatureEdits | None) -> Views:
        views = [self._view(video, step, role, edits) for video, role in zip(videos, roles, strict=True)]
        padded = np.zeros((len(views), max(map(len, views), default=1), self.source.dim), dtype=np.float32)
        for row, view in zip(padded, views, strict=True):
            row[: len(view)] = view
        index = np.asarray(videos, dtype=np.int64)
        return Views(
            features=torch.from_numpy(padded),
            lengths=torch.tensor([len(view) for view in views], dtype=torch.int64),
            keys=torch.tensor([seed_of(self.seed, "dropout", step, role) for role in roles], dtype=torch.int64),
            videos=torch.from_numpy(index),
            groups=torch.from_numpy(self.positives.groups[index]),
        )

    def _view(self, video: int, step: int, role: str, edits: FeatureEdits | None) -> NDArray[np.float32]:
        frames = self.source.features(self.positives.video_ids[video])
        rng = generator(self.seed, "view", step, role)
        if len(frames) > self.max_frames:
            start = int(rng.integers(0, len(frames) - self.max_frames + 1))
            frames = frames[start : start + self.max_frames]
        return edit(np.asarray(frames, dtype=np.float32), edits, rng)[: self.max_frames]


def prefetched(builder: BatchBuilder, steps: range, ahead: int = 2) -> Iterator[Batch]:
    """The batches of ``steps`` in order, made by a background thread up to ``ahead`` of their use.

    Reading and editing is numpy work that releases the interpreter while torch computes.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        waiting: list[Any] = []
        remaining = iter(steps)
        try:
            for step in remaining:
                waiting.append(pool.submit(builder.build, step))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
