"""Batches are functions of (seed, step) alone, and ranks hold slices of the same one."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from reelkin.core.errors import ReelkinError, UsageError
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


def test_with_drop_last_an_epoch_is_whole_batches_of_a_permutation_of_its_own() -> None:
    sampler = GlobalSampler(10, 4, seed=0, drop_last=True)
    epochs = [np.concatenate([sampler.items(2 * epoch), sampler.items(2 * epoch + 1)]) for epoch in range(30)]
    assert all(len(set(each.tolist())) == 8 for each in epochs), "within an epoch nothing comes twice"
    assert set(np.concatenate(epochs).tolist()) == set(range(10)), "what is left out differs from epoch to epoch"
    assert [sampler.epoch(step) for step in (0, 1, 2, 5)] == [0, 0.5, 1, 2.5]
    assert [sampler.steps_of(epochs) for epochs in (0.1, 1, 2, 40)] == [1, 2, 4, 80]
    # The published run: 5612 pairs, 64 a rank, 40 epochs, on 8, 4 and 1 ranks.
    steps = [GlobalSampler(5612, 64 * ranks, 0, drop_last=True).steps_of(40) for ranks in (8, 4, 1)]
    assert steps == [40 * 10, 40 * 21, 40 * 87]


def test_an_epoch_smaller_than_a_batch_is_refused_with_the_fix() -> None:
    with pytest.raises(
        UsageError, match=r"epoch of 7 items does not fill one batch of 8.*to 7 or less.*--no-drop-last"
    ):
        GlobalSampler(7, 8, 0, drop_last=True)


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


@pytest.mark.parametrize("workers", [0, 1, 2, 5, 20])
def test_any_number_of_threads_gives_the_same_bits_in_order(workers: int) -> None:
    found = list(prefetched(builder(), range(2, 9), workers))
    assert [batch.step for batch in found] == list(range(2, 9))
    for batch in found:
        for made, alone in zip(parts(batch), parts(builder().build(batch.step)), strict=True):
            assert rows(made) == rows(alone)


class Slow(BatchBuilder):
    """Takes its time, and knows how many batches were made at once and in all."""

    seconds = 0.05

    def build(self, step: int) -> Batch:
        self.__dict__.setdefault("begun", []).append(step)
        self.__dict__["now"] = self.__dict__.get("now", 0) + 1
        self.__dict__["most"] = max(self.__dict__.get("most", 0), self.__dict__["now"])
        time.sleep(self.seconds)
        self.__dict__["now"] -= 1
        return super().build(step)


def slow() -> Slow:
    made = builder()
    made.__class__ = Slow
    assert isinstance(made, Slow)
    return made


def test_threads_work_at_the_same_time_and_no_further_ahead_than_one_batch_more() -> None:
    made = slow()
    batches = prefetched(made, range(10), 3)
    assert next(batches).step == 0
    time.sleep(4 * Slow.seconds)
    assert made.__dict__["most"] == 3 and sorted(made.__dict__["begun"]) == [0, 1, 2, 3]
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    assert len(made.__dict__["begun"]) == 4


def test_a_consumer_that_works_meanwhile_waits_less() -> None:
    def waited(seconds_of_work: float) -> float:
        batches, total = prefetched(slow(), range(6), 1), 0.0
        next(batches)
        for _ in range(5):
            time.sleep(seconds_of_work)
            begun = time.perf_counter()
            next(batches)
            total += time.perf_counter() - begun
        return total

    assert waited(4 * Slow.seconds) < 0.5 * waited(0.0)


def test_leaving_the_loop_ends_the_threads() -> None:
    for _ in prefetched(slow(), range(10_000), 2):
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_an_error_while_prefetching_reaches_the_caller() -> None:
    broken = builder()
    broken.source = Videos({"other": np.zeros((2, 32), np.float32)})
    with pytest.raises(KeyError):
        list(prefetched(broken, range(3), 2))


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


def test_random_sampling_draws_frames_of_the_whole_video_with_repetition() -> None:
    ramp = {"long": np.arange(40, dtype=np.float16)[:, None].repeat(4, axis=1) + 1, "short": np.ones((5, 4))}
    positives = match_labels(["long", "short"], None)
    made = BatchBuilder(
        Videos(ramp), positives, GlobalSampler(2, 64, 0), rank=0, size=1, seed=0, max_frames=6, edits=None,
        random_sampling=True,
    )  # fmt: skip
    anchors = made.build(0).anchors
    views = anchors.frames.split(anchors.lengths.tolist())
    drawn = [view[:, 0].numpy() for view, video in zip(views, anchors.videos.tolist(), strict=True) if video == 0]
    assert len(drawn) == 32 and {len(each) for each in drawn} == {6}
    assert all((np.diff(each) >= 0).all() for each in drawn), "in the order of time"
    assert any((np.diff(each) == 0).any() for each in drawn), "with repetition"
    counts = np.bincount(np.concatenate(drawn).astype(int), minlength=41)[1:]
    assert counts[:20].sum() > 50 and counts[20:].sum() > 50 and (counts > 0).sum() > 30
    assert set(anchors.lengths[anchors.videos == 1].tolist()) == {5}, "short ones whole"


def test_long_videos_are_read_no_further_than_their_window() -> None:
    read: list[tuple[int, int | None]] = []

    class Recorded(Videos):
        def features(self, video_id: str, begin: int = 0, end: int | None = None) -> np.ndarray:
            read.append((begin, end))
            return np.asarray(super().features(video_id, begin, end))

    source = Recorded({"v": np.arange(100, dtype=np.float32)[:, None].repeat(4, axis=1)})
    positives = match_labels(["v"], None)
    made = BatchBuilder(source, positives, GlobalSampler(1, 50, 0), rank=0, size=1, seed=0, max_frames=30, edits=None)
    firsts = made.build(0).anchors.padded()[0][:, 0, 0]
    assert {end - begin for begin, end in read if end is not None} == {30} and len(read) == 100
    assert firsts.min() < 10 and firsts.max() > 60 and firsts.max() <= 70


def test_a_video_without_frames_is_an_error_that_names_it() -> None:
    source = Videos({"full": np.ones((2, 4), np.float32), "hollow": np.ones((0, 4), np.float32)})
    positives = match_labels(source.video_ids, None)
    made = BatchBuilder(source, positives, GlobalSampler(2, 8, 0), rank=0, size=1, seed=0, max_frames=6, edits=None)
    with pytest.raises(ReelkinError, match="'hollow' has no frame features"):
        made.build(0)


def test_positives_are_of_the_anchors_group_and_drawn_negatives_of_others_and_distinct() -> None:
    for step in range(20):
        batch = builder(negatives_per_anchor=5).build(step)
        assert torch.equal(batch.anchors.groups, batch.positives.groups)
        assert not torch.equal(batch.anchors.videos, batch.positives.videos)
        assert batch.negatives is not None
        drawn = batch.negatives.videos.view(-1, 5)
        assert all(len(set(row)) == 5 for row in drawn.tolist())
        assert (batch.negatives.groups.view(-1, 5) != batch.anchors.groups).all()


@pytest.mark.parametrize("wide", [frozenset(), frozenset({"s02"}), frozenset(FEATURES)])
def test_drawn_negatives_stay_as_they_are_stored_and_are_the_same_numbers(wide: frozenset[str]) -> None:
    stored = {name: each.astype(np.float32 if name in wide else np.float16) for name, each in FEATURES.items()}
    whole = {name: each.astype(np.float32) for name, each in stored.items()}
    found, expected = (builder(batch_size=30) for _ in range(2))
    found.source, expected.source = Videos(stored), Videos(whole)
    one, other = parts(found.build(0)), parts(expected.build(0))
    assert [views.frames.dtype for views in other] == 3 * [torch.float32]
    assert [views.frames.dtype for views in one] == [
        torch.float32, torch.float32, torch.float32 if wide else torch.float16
    ]  # fmt: skip
    for own, theirs in zip(one, other, strict=True):
        for got, want in zip(own.padded(), theirs.padded(), strict=True):
            assert torch.equal(got.to(want.dtype), want)


def test_making_a_batch_holds_its_drawn_negatives_once_and_in_half_precision() -> None:
    source = Videos({f"v{number:02d}": np.ones((200, 256), np.float16) for number in range(40)})
    positives = match_labels(source.video_ids, None)
    made = BatchBuilder(
        source, positives, GlobalSampler(40, 4, 0), rank=0, size=1, seed=0, max_frames=150, edits=None,
        negatives_per_anchor=16,
    )  # fmt: skip
    made.build(0)
    tracemalloc.start()
    try:
        batch = made.build(1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch.negatives is not None
    held = 64 * 150 * 256 * 2
    assert batch.negatives.frames.nbytes == held
    assert peak < 1.6 * held  # the pairs, 8 windows in float32, are a quarter of it


def test_dropout_keys_of_a_step_all_differ() -> None:
    keys = torch.cat([views.keys for step in range(3) for views in parts(builder().build(step))])
    assert len(keys.unique()) == len(keys)


def test_edited_windows_stay_within_the_limit() -> None:
    slow = FeatureEdits(min_crop=1, max_speed=3, max_drop=0, shuffle_segments=1, noise=0, shared_noise=0, probability=1)
    made = builder(edits=slow)
    assert all(int(made.build(step).anchors.lengths.max()) <= 6 for step in range(5))
