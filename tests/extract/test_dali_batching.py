"""Batches hold all pictures of all clips, in order, within the budget."""

from __future__ import annotations

import numpy as np
import pytest

from reelkin.extract.decoding.batching import Budget, Need, Part, form_batches

PLENTY = Budget(bytes=10**12, pictures=10**9, samples=100)


def need(*indices: int, picture_bytes: int = 10, file_bytes: int = 0) -> Need:
    return Need(np.asarray(indices, np.int64), picture_bytes, file_bytes)


def test_clips_share_a_batch_up_to_its_number_of_samples() -> None:
    needs = [need(0, 1)] * 5
    whole = [Part(clip, 0, 2) for clip in range(5)]
    assert list(form_batches(needs, PLENTY)) == [whole]
    assert list(form_batches(needs, Budget(10**6, 100, 2))) == [whole[:2], whole[2:4], whole[4:]]


def test_a_batch_ends_before_it_is_over_its_bytes_or_pictures() -> None:
    needs = [need(0, 1, 2), need(0, 5), need(3, file_bytes=25)]
    assert [len(batch) for batch in form_batches(needs, Budget(50, 100, 9))] == [2, 1]  # 30 + 20, 35
    assert [len(batch) for batch in form_batches(needs, Budget(49, 100, 9))] == [1, 1, 1]  # 20 + 35 is too much
    assert [len(batch) for batch in form_batches(needs, Budget(10**6, 3, 9))] == [1, 2]


def test_a_clip_over_the_budget_is_asked_for_in_parts() -> None:
    (first,), (second,), (third, other) = form_batches([need(*range(8)), need(4)], Budget(30, 100, 9))
    assert (first, second, third, other) == (Part(0, 0, 3), Part(0, 3, 6), Part(0, 6, 8), Part(1, 0, 1))


def test_repeats_cost_nothing_and_are_not_torn_apart() -> None:
    assert list(form_batches([need(0, 0, 0, 1, 1, 7)], Budget(30, 100, 9))) == [[Part(0, 0, 6)]]
    assert list(form_batches([need(0, 0, 0, 1, 1, 7, 7, 9)], Budget(20, 100, 9))) == [[Part(0, 0, 5)], [Part(0, 5, 8)]]


def test_a_picture_larger_than_the_budget_is_taken_alone() -> None:
    batches = list(form_batches([need(0, 1, picture_bytes=99), need(0)], Budget(50, 100, 9)))
    assert batches == [[Part(0, 0, 1)], [Part(0, 1, 2)], [Part(1, 0, 1)]]


def test_clips_without_pictures_have_no_part() -> None:
    assert list(form_batches([need(), need(2), need()], PLENTY)) == [[Part(1, 0, 1)]]
    assert list(form_batches([], PLENTY)) == []


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_out_of_order_and_no_batch_of_several_is_over_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    needs = [
        Need(np.sort(rng.integers(0, 30, rng.integers(0, 40))), int(rng.integers(1, 50)), int(rng.integers(0, 200)))
        for _ in range(rng.integers(1, 12))
    ]
    budget = Budget(*(int(value) for value in (rng.integers(1, 600), rng.integers(1, 40), rng.integers(1, 6))))
    batches = list(form_batches(needs, budget))
    parts = [part for batch in batches for part in batch]
    for number, given in enumerate(needs):
        positions = [p for part in parts if part.clip == number for p in range(part.first, part.last)]
        assert positions == list(range(len(given.indices)))
    assert [part.clip for part in parts] == sorted(part.clip for part in parts)
    for batch in batches:
        pictures = [len(set(needs[p.clip].indices[p.first : p.last].tolist())) for p in batch]
        size = sum(
            n * needs[p.clip].picture_bytes + needs[p.clip].file_bytes for n, p in zip(pictures, batch, strict=True)
        )
        if len(batch) > 1:
            assert size <= budget.bytes and sum(pictures) <= budget.pictures and len(batch) <= budget.samples
        elif pictures[0] > 1:
            assert size <= budget.bytes and pictures[0] <= budget.pictures
