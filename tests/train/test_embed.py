"""Whole videos through a model: batches of any size, widths of the model's own, and the errors that name a video."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.train.embed import embed_frames, embed_videos, iter_embeddings, iter_frames
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


SMALL: dict[str, dict[str, object]] = {
    "tca": {"num_heads": 4, "feedforward": 8, "projection": 6, "final_norm": True},
    "netvlad": {"num_clusters": 3, "output_dim": 8},
    "nextvlad": {"num_clusters": 3, "output_dim": 8},
    "lstm": {"output_dim": 10},
    "gru": {"output_dim": 10},
    "mean": {},
}


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_cost_one_pass_and_equal_those_of_separate_passes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, videos = build_aggregator(name, {"dim": DIM, **SMALL[name]}).eval(), source()
    padded, lengths = torch.zeros(3, 9, DIM), torch.tensor([1, 4, 9])
    order = sorted(videos.video_ids, key=lambda video_id: (videos.num_frames(video_id), video_id))
    for row, video_id in zip(padded, order, strict=True):
        row[: videos.num_frames(video_id)] = torch.from_numpy(videos.features(video_id))
    with torch.inference_mode():
        expected, expected_frames = model(padded, lengths).numpy(), model.encode(padded, lengths).numpy()
    passes, pooled = [], []
    for made, method in ((passes, "_seen"), (pooled, "_video")):
        own = getattr(type(model), method)
        monkeypatch.setattr(type(model), method, lambda *args, own=own, made=made: made.append(1) or own(*args))
    both = list(iter_embeddings(model, videos, videos.video_ids))
    assert (len(passes), len(pooled)) == (1, 1)
    frames = dict(iter_frames(model, videos, videos.video_ids))
    assert (len(passes), len(pooled)) == (2, 1)
    alone = list(iter_embeddings(model, videos, videos.video_ids, frames=False))
    assert (len(passes), len(pooled)) == (3, 2)
    assert [found.video_id for found in both] == order == list(frames) == [found.video_id for found in alone]
    for row, found in enumerate(both):
        np.testing.assert_array_equal(found.video, expected[row])
        np.testing.assert_array_equal(alone[row].video, expected[row])
        np.testing.assert_array_equal(found.frames, expected_frames[row, : lengths[row]])
        np.testing.assert_array_equal(frames[found.video_id], expected_frames[row, : lengths[row]])
        assert alone[row].frames is None


def test_a_device_that_holds_no_values_is_refused() -> None:
    model, videos = build_aggregator("mean", {"dim": DIM}), source()
    for embed in (embed_videos, embed_frames):
        with pytest.raises(UsageError, match="device: 'cpu' or 'cuda', got 'meta'"):
            embed(model, videos, videos.video_ids, device="meta")
