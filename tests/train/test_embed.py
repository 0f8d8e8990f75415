"""Whole videos through a model: batches of any size, widths of the model's own, and the errors that name a video."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reelkin.core.errors import ReelkinError
from reelkin.train.embed import embed_frames, embed_videos, iter_embeddings
from reelkin.train.models.aggregators import build_aggregator

from .conftest import Videos

DIM = 16


def source(**more: np.ndarray) -> Videos:
    rng = np.random.default_rng(0)
    return Videos({f"v{n}": rng.standard_normal((n, DIM)).astype(np.float32) for n in (9, 1, 4, 4)} | more)


@pytest.mark.parametrize(
    ("name", "fields", "widths"),
    [
        ("tca", {"num_heads": 4, "feedforward": 8, "projection": 6, "positions": "sinusoidal"}, (6, 6)),
        ("netvlad", {"num_clusters": 3, "output_dim": 8}, (8, DIM)),
        ("nextvlad", {"num_clusters": 3, "output_dim": 8}, (8, 2 * DIM)),
        ("lstm", {"output_dim": 10}, (10, 10)),
    ],
)
def test_videos_are_embedded_in_batches_as_one_by_one(
    name: str, fields: dict[str, object], widths: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model, videos = build_aggregator(name, {"dim": DIM, **fields}).eval(), source()
    rows, frames = embed_videos(model, videos, videos.video_ids), embed_frames(model, videos, videos.video_ids)
    assert rows.shape == (len(videos.video_ids), widths[0])
    for video_id, row, own in zip(videos.video_ids, rows, frames, strict=True):
        features = torch.from_numpy(videos.features(video_id))[None]
        length = torch.tensor([features.shape[1]])
        np.testing.assert_allclose(row, model(features, length)[0].detach(), atol=1e-6)
        assert own.shape == (int(length), widths[1])
        np.testing.assert_allclose(own, model.encode(features, length)[0].detach(), atol=2e-3)  # kept as float16


def test_a_video_without_frames_is_named() -> None:
    videos = source(hollow=np.zeros((0, DIM), dtype=np.float32))
    with pytest.raises(ReelkinError, match="'hollow' has no frame features; extract it again, or leave it out"):
        list(iter_embeddings(build_aggregator("mean", {"dim": DIM}), videos, videos.video_ids))


def test_a_video_whose_embedding_is_not_finite_is_named() -> None:
    videos = source(broken=np.full((2, DIM), np.nan, dtype=np.float32))
    with pytest.raises(ReelkinError, match="the embedding of 'broken' is not finite"):
        embed_videos(build_aggregator("mean", {"dim": DIM}), videos, videos.video_ids)
