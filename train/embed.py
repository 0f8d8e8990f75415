"""Video and frame embeddings: a model over the frame features of many videos, batched by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.devices import usable_device
from ..core.errors import ReelkinError
from .data.sources import FeatureSource
from .models.aggregators import MeanPooling, MeanPoolingConfig
from .models.base import Aggregator

BATCH_FRAMES = 8192
"""Frames, padding included, that go through the model at once."""


@dataclass(frozen=True)
class Embedding:
    """One video: ``video`` float32 [D] of unit length and, if asked for, ``frames`` float32 [T, D], rows of unit
    length."""

    video_id: str
    video: NDArray[np.float32]
    frames: NDArray[np.float32] | None = None


def iter_embeddings(
    model: nn.Module,
    source: FeatureSource,
    ids: Sequence[str],
    *,
    frames: bool = True,
    batch_frames: int = BATCH_FRAMES,
    device: torch.device | str = "cpu",
) -> Iterator[Embedding]:
    """Run ``model`` over the videos, in order of rising length so that little is padding.

    Args:
        model: an aggregator (see `models.base`); it is put into eval mode.
        source: where features come from.
        ids: videos to embed; each is yielded once, not in this order.
        frames: also give frame embeddings, from the same pass of the model.
        batch_frames: bound on N * T of a batch; one longer video makes a batch alone.
        device: where the model runs; it is moved there.

    Raises:
        ReelkinError: a video has no frame, or its embedding is not finite; the message names it.
        UsageError: there is no such device (see `core.devices.usable_device`).
    """
    aggregator = cast(Aggregator, model)
    embed = aggregator.forward_and_encode if frames else lambda *batch: (aggregator(*batch),)
    for video_id, own in _run(aggregator, embed, source, ids, batch_frames, device):
        yield Embedding(video_id, *own)


def iter_frames(
    model: nn.Module,
    source: FeatureSource,
    ids: Sequence[str],
    *,
    batch_frames: int = BATCH_FRAMES,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Ids and frame embeddings float32 [T, D] alone, without what the video embeddings would cost beside them;
    everything else as `iter_embeddings`."""
    aggregator = cast(Aggregator, model)
    for video_id, own in _run(
        aggregator, lambda *batch: (aggregator.encode(*batch),), source, ids, batch_frames, device
    ):
        yield video_id, own[0]


def _run(
    model: nn.Module,
    embed: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]],
    source: FeatureSource,
    ids: Sequence[str],
    batch_frames: int,
    device: torch.device | str,
) -> Iterator[tuple[str, list[NDArray[np.float32]]]]:
    """Each id with what ``embed(features [N, T, D], lengths [N])`` gives of it: rows of [N, E], or its own frames of
    [N, T, E]."""
    device = usable_device(device)
    model.to(device).eval()
    lengths = {video_id: source.num_frames(video_id) for video_id in ids}
    for batch in _batches(sorted(lengths, key=lambda video_id: (lengths[video_id], video_id)), lengths, batch_frames):
        stacked = [np.asarray(source.features(video_id), dtype=np.float32) for video_id in batch]
        padded_NTD = np.zeros((len(batch), max(map(len, stacked)), stacked[0].shape[1]), dtype=np.float32)
        for row, features in zip(padded_NTD, stacked, strict=True):
            row[: len(features)] = features
        with torch.inference_mode():
            length_N = torch.tensor([len(features) for features in stacked], device=device)
            found = [each.float().cpu().numpy() for each in embed(torch.from_numpy(padded_NTD).to(device), length_N)]
        for index, video_id in enumerate(batch):
            own = [each[index, : lengths[video_id]] if each.ndim == 3 else each[index] for each in found]
            if not all(np.isfinite(each).all() for each in own):
                raise ReelkinError(
                    f"the embedding of {video_id!r} is not finite: its features hold non-finite values, or the model's "
                    "weights do; extract the video again, or take an earlier checkpoint"
                )
            yield video_id, own


def embed_videos(
    model: nn.Module, source: FeatureSource, ids: Sequence[str], *, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Video embeddings float32 [V, D] in the order of ``ids``; raises as `iter_embeddings`."""
    rows = {found.video_id: found.video for found in iter_embeddings(model, source, ids, frames=False, device=device)}
    return np.stack([rows[video_id] for video_id in ids])


def embed_frames(
    model: nn.Module, source: FeatureSource, ids: Sequence[str], *, device: torch.device | str = "cpu"
) -> list[NDArray[np.float16]]:
    """Frame embeddings, float16 [T, D] per video in the order of ``ids``; raises as `iter_embeddings`."""
    rows = {
        video_id: frames_TD.astype(np.float16) for video_id, frames_TD in iter_frames(model, source, ids, device=device)
    }
    return [rows[video_id] for video_id in ids]


def mean_pooled(
    source: FeatureSource, ids: Sequence[str], *, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """The embedding that needs no model: the mean of a video's frame features, of unit length; float32 [V, D]."""
    return embed_videos(MeanPooling(MeanPoolingConfig(dim=source.dim)), source, ids, device=device)


def _batches(ids: Sequence[str], lengths: Mapping[str, int], batch_frames: int) -> Iterator[list[str]]:
    """Cut ids, sorted by length, so that (videos x longest) stays within ``batch_frames``."""
    batch: list[str] = []
    for video_id in ids:
        if lengths[video_id] < 1:
            raise ReelkinError(f"{video_id!r} has no frame features; extract it again, or leave it out")
        if batch and (len(batch) + 1) * lengths[video_id] > batch_frames:
            yield batch
            batch = []
        batch.append(video_id)
    if batch:
        yield batch
