"""Windows and batches hold each picture where it belongs, whatever the pieces in which pictures come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkin.extract.batches import Batcher, Windows


def pictures_of(count: int) -> np.ndarray:
    """uint8 [count, 1, 1, 3]: each picture is its number."""
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None, None, None], 3, axis=3)


def windows_of(count: int, frames: int, step: int, pieces: int) -> list[tuple[list[int], float]]:
    cutter = Windows(frames, step)
    found = []
    for first in range(0, count, pieces):
        numbers = pictures_of(count)[first : first + pieces]
        found += list(cutter.add(numbers, np.arange(first, first + len(numbers), dtype=float)))
    found += list(cutter.finish())
    return [(window[:, 0, 0, 0].tolist(), time) for window, time in found]


@pytest.mark.parametrize(
    ("count", "frames", "step", "expected"),
    [
        (6, 2, 2, [[0, 1], [2, 3], [4, 5]]),
        (5, 2, 2, [[0, 1], [2, 3], [3, 4]]),  # the last one ends with the clip
        (5, 3, 1, [[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
        (7, 2, 3, [[0, 1], [3, 4], [5, 6]]),
        (2, 4, 4, [[0, 1, 1, 1]]),  # shorter than a window
        (1, 1, 1, [[0]]),
        (5, 1, 2, [[0], [2], [4]]),
        (0, 3, 3, []),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 100])
def test_windows_cover_the_clip_from_its_first_to_its_last_picture(
    count: int, frames: int, step: int, expected: list[list[int]], pieces: int
) -> None:
    found = windows_of(count, frames, step, pieces)
    assert [numbers for numbers, _ in found] == expected
    assert [time for _, time in found] == [(numbers[0] + numbers[-1]) / 2 for numbers in expected]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.sampled_from([4, 6])), max_size=20), st.integers(1, 7)
)
def test_batches_hold_all_inputs_in_order_and_one_shape_each(steps: list[tuple[int, int, int]], size: int) -> None:
    """Against plain lists: owner, number of inputs, side."""
    batcher: Batcher[int] = Batcher(size)
    expected: list[tuple[int, int]] = []
    found: list[tuple[int, int]] = []
    batches = 0

    def take(batch) -> None:  # type: ignore[no-untyped-def]
        nonlocal batches
        batches += 1
        owners = [owner for owner, count in batch.parts for _ in range(count)]
        assert 1 <= len(owners) == len(batch.inputs) <= size
        found.extend(zip(owners, batch.inputs[:, 0, 0, 0].tolist(), strict=True))

    number, shapes = 0, []
    for owner, count, side in steps:
        inputs = np.zeros((count, side, side, 3), np.uint8)
        inputs[:, 0, 0, 0] = np.arange(number, number + count) % 256
        expected += [(owner, value) for value in inputs[:, 0, 0, 0].tolist()]
        shapes += [side] * count
        number += count
        for batch in batcher.add(owner, inputs):
            take(batch)
    for batch in batcher.flush():
        take(batch)
    assert found == expected and not list(batcher.flush())
    runs = [len(run) for run in np.split(shapes, np.flatnonzero(np.diff(shapes)) + 1)] if shapes else []
    assert batches == sum(-(-run // size) for run in runs)  # no batch is smaller than it must be
