"""Retrieval of held-out groups while training: is the model better than the mean of the frames?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...core.engine import Engine
from ...core.errors import ReelkinError, UsageError
from ...core.metrics import average_precision
from ...core.seeds import generator
from ..data.sampling import rank_slice
from ..data.sources import FeatureSource
from ..embed import embed_videos
from ..models.aggregators import MeanPooling, MeanPoolingConfig, out_dim


def choose_held_out(groups: Mapping[str, int], share: float, seed: int) -> dict[str, int]:
    """Hold out whole groups.

    Args:
        groups: component number by video; those of one video are left to training.
        share: of the groups with two videos or more, above 0 and below 1; at least one group is held out.
        seed: of the choice.

    Raises:
        UsageError: the share is out of range, or no group would remain on either side.
    """
    if not 0 < share < 1:
        raise UsageError(f"--hold-out is {share}; give a share of the groups above 0 and below 1")
    sizes: dict[int, int] = {}
    for number in groups.values():
        sizes[number] = sizes.get(number, 0) + 1
    able = sorted(number for number, size in sizes.items() if size > 1)
    if len(able) < 2:
        raise UsageError(f"--hold-out needs at least 2 groups of several videos, found {len(able)}; leave it out")
    count = min(max(1, round(share * len(able))), len(able) - 1)
    chosen = {able[position] for position in generator(seed, "hold out").permutation(len(able))[:count]}
    return {video_id: number for video_id, number in groups.items() if number in chosen}


def embed(
    model: nn.Module, source: FeatureSource, video_ids: Sequence[str], device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Video embeddings float32 [V, D], whole videos, in the order given; the model's training mode is kept."""
    if not video_ids:  # more ranks than videos
        return np.zeros((0, out_dim(model)), dtype=np.float32)
    was_training = model.training
    try:
        return embed_videos(model, source, video_ids, device=device)
    finally:
        model.train(was_training)


def retrieval_map(embeddings: NDArray[np.float32], groups: NDArray[np.int64]) -> float:
    """Mean average precision of finding the rest of a video's group by cosine among all others.

    Args:
        embeddings: [V, D], unit rows.
        groups: int64 [V].

    Raises:
        ReelkinError: no group has two videos.
    """
    scores = embeddings @ embeddings.T
    values = []
    for query in range(len(groups)):
        others = np.arange(len(groups)) != query
        value = average_precision(scores[query][others], groups[others] == groups[query])
        if value is not None:
            values.append(value)
    if not values:
        raise ReelkinError("no held-out group has two videos in the store, so there is nothing to retrieve")
    return float(np.mean(values))


class Validator:
    """mAP of a model on held-out videos, beside mean pooling's; every rank embeds its share.

    Args:
        source: frame features.
        held_out: group number by video; ids that the source lacks are passed over.
        engine: ranks.

    Raises:
        ReelkinError: no held-out group has two videos in the source.
    """

    def __init__(self, source: FeatureSource, held_out: Mapping[str, int], engine: Engine) -> None:
        self.source, self.engine = source, engine
        stored = set(source.video_ids)
        self.video_ids = sorted(video_id for video_id in held_out if video_id in stored)
        self.groups = np.array([held_out[video_id] for video_id in self.video_ids], dtype=np.int64)
        mean = embed(MeanPooling(MeanPoolingConfig(dim=source.dim)), source, self.video_ids)
        self.mean_pooling = retrieval_map(mean, self.groups)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """All ranks together: {"map", "map_mean_pooling", "videos"}."""
        own = rank_slice(len(self.video_ids), self.engine.rank, self.engine.size)
        part = embed(model, self.source, self.video_ids[own], self.engine.device)
        whole = self.engine.all_gather(torch.from_numpy(part), "held-out embeddings").numpy()
        return {
            "map": retrieval_map(whole, self.groups),
            "map_mean_pooling": self.mean_pooling,
            "videos": float(len(self.video_ids)),
        }
