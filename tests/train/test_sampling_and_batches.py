"""Batches are functions of (seed, step) alone, and ranks hold slices of the same one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from reelkin.core.errors import UsageError
from reelkin.train.data.batches import Batch, BatchBuilder, Views
from reelkin.train.data.feature_edits import STRENGTHS, FeatureEdits
from reelkin.train.data.labels import Labels
from reelkin.train.data.loading import prefetched
from reelkin.train.data.positives import Positives, match_labels
from reelkin.train.data.sampling import GlobalSampler, rank_slice

from .conftest import Videos, scene_features

FEATURES = scene_features(scenes=6, copies=2)
LABELS = Labels("test", groups={name: name.partition("__")[0] for name in FEATURES})


def builder(rank: int = 0, size: int = 1, seed: int = 3, batch_size: int = 7, **fields: object) -> BatchBuilder:
    positives: Positives = match_labels(list(FEATURES), LABELS)
    options: dict[str, object] = {"max_frames": 6, "edits": STRENGTHS["strong"], "negatives_per_anchor": 2} | fields
    return BatchBuilder(
        Videos(FEATURES),
        positives,
        GlobalSampler(positives.num_items, batch_size, seed),
        rank=rank,
        size=size,
        seed=seed,
        **options,  # type: ignore[arg-type]
    )


def rows(views: Views) -> list[tuple[bytes, int, int, list[int]]]:
    """Each view's frames, video, key and groups."""
    frames = views.frames.split(views.lengths.tolist())
    return [
        (frames[row].numpy().tobytes(), int(views.videos[row]), int(views.keys[row]), views.groups[row].tolist())
        for row in range(len(views))
    ]


def parts(batch: Batch) -> list[Views]:
    assert batch.negatives is not None
    return [batch.anchors, batch.positives, batch.negatives]


def test_an_epoch_visits_every_item_once_however_the_batch_divides_it() -> None:
    sampler = GlobalSampler(10, 4, seed=0)
    stream = np.concatenate([sampler.items(step) for step in range(10)])
    for epoch in range(4):
        assert sorted(stream[epoch * 10 : (epoch + 1) * 10]) == list(range(10))
    assert not np.array_equal(stream[:10], stream[10:20])
    assert sampler.epoch(5) == 2.0
    assert [sampler.steps_of(epochs) for epochs in (0.1, 1, 2, 2.1)] == [1, 3, 5, 6]


def test_batches_larger_than_the_data_are_allowed() -> None:
    assert Counter(GlobalSampler(3, 7, seed=1).items(0).tolist()).most_common()[-1][1] >= 2


def test_another_seed_gives_another_order() -> None:
    assert not np.array_equal(GlobalSampler(50, 50, 0).items(0), GlobalSampler(50, 50, 1).items(0))


def test_empty_data_is_refused() -> None:
    with pytest.raises(UsageError, match="out of 0 items"):
        GlobalSampler(0, 4, 0)


@pytest.mark.parametrize(("total", "size"), [(7, 1), (7, 2), (7, 3), (3, 5), (64, 8)])
def test_rank_slices_cover_everything_once_in_order(total: int, size: int) -> None:
    slices = [rank_slice(total, rank, size) for rank in range(size)]
    assert [place for each in slices for place in range(total)[each]] == list(range(total))
    lengths = [each.stop - each.start for each in slices]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_together_hold_the_batch_of_one_rank(size: int) -> None:
    for step in (0, 5):
        whole = parts(builder().build(step))
        slices = [parts(builder(rank, size).build(step)) for rank in range(size)]
        for position, views in enumerate(whole):
            assert [row for each in slices for row in rows(each[position])] == rows(views)


def test_a_batch_depends_on_its_step_and_not_on_what_was_made_before() -> None:
    one, other = builder(), builder()
    for step in range(4):
        one.build(step)
    for views, again in zip(parts(one.build(4)), parts(other.build(4)), strict=True):
        assert torch.equal(views.frames, again.frames) and torch.equal(views.keys, again.keys)
    assert rows(one.build(4).anchors) != rows(one.build(5).anchors)
    assert rows(builder(seed=4).build(4).anchors) != rows(one.build(4).anchors)


def test_prefetching_changes_nothing_but_the_time() -> None:
    found = list(prefetched(builder(), range(2, 9)))
    assert [batch.step for batch in found] == list(range(2, 9))
    for batch in found:
        assert rows(batch.positives) == rows(builder().build(batch.step).positives)


def test_an_error_while_prefetching_reaches_the_caller() -> None:
    broken = builder()
    broken.source = Videos({"other": np.zeros((2, 32), np.float32)})
    with pytest.raises(KeyError):
        list(prefetched(broken, range(3)))


def test_windows_are_contiguous_random_and_padded_with_zeros() -> None:
    ramp = {"v": np.arange(40, dtype=np.float16)[:, None].repeat(4, axis=1) + 1}
    positives = match_labels(["v"], None)
    made = BatchBuilder(
        Videos(ramp), positives, GlobalSampler(1, 8, 0), rank=0, size=1, seed=0, max_frames=6, edits=None
    )
    starts = set()
    for row in made.build(0).anchors.padded()[0][:, :, 0].numpy():
        assert np.array_equal(np.diff(row), np.ones(5))
        starts.add(int(row[0]))
    assert len(starts) > 3


def test_padding_is_zeros_past_each_end_and_any_rows_can_be_taken() -> None:
    views = builder(edits=None).build(0).anchors
    own = views.frames.split(views.lengths.tolist())
    assert views.frames.dtype == torch.float32 and len({len(each) for each in own}) > 1
    for rows_taken, numbers in (
        (None, range(7)), (slice(2, 5), range(2, 5)), (torch.tensor([6, 0, 0, 3]), [6, 0, 0, 3]), (slice(0, 0), [])
    ):  # fmt: skip
        features, lengths, keys = views.padded(rows_taken)
        wanted = [own[number] for number in numbers]
        assert features.shape[1] == max((len(each) for each in wanted), default=1)
        assert lengths.tolist() == [len(each) for each in wanted]
        assert keys.tolist() == [int(views.keys[number]) for number in numbers]
        for row, each in zip(features, wanted, strict=True):
            assert torch.equal(row[: len(each)], each) and not row[len(each) :].any()


def test_positives_are_of_the_anchors_group_and_drawn_negatives_distinct() -> None:
    batch = builder().build(1)
    assert torch.equal(batch.anchors.groups, batch.positives.groups)
    assert not torch.equal(batch.anchors.videos, batch.positives.videos)
    assert batch.negatives is not None
    drawn = batch.negatives.videos.view(-1, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()


def test_dropout_keys_of_a_step_all_differ() -> None:
    keys = torch.cat([views.keys for step in range(3) for views in parts(builder().build(step))])
    assert len(keys.unique()) == len(keys)


def test_edited_windows_stay_within_the_limit() -> None:
    slow = FeatureEdits(min_crop=1, max_speed=3, max_drop=0, shuffle_segments=1, noise=0, shared_noise=0, probability=1)
    made = builder(edits=slow)
    assert all(int(made.build(step).anchors.lengths.max()) <= 6 for step in range(5))
