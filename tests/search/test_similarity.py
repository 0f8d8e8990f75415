"""Similarities against plain loops over frames and scipy's distances."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from reelkin.core.errors import UsageError
from reelkin.search.similarity import (
    ChamferQueries,
    chamfer,
    chamfer_matrix,
    cosine,
    euclidean,
    symmetric_chamfer,
    unit_rows,
)


def looped_chamfer(query: np.ndarray, target: np.ndarray) -> float:
    total = 0.0
    for q in query:
        total += max(float(np.dot(q.astype(np.float64), t.astype(np.float64))) for t in target)
    return total / len(query)


def videos(seed: int, lengths: list[int], dim: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [unit_rows(rng.normal(size=(length, dim))) for length in lengths]


def test_cosine_is_the_normalised_dot_product_and_zero_for_a_zero_row() -> None:
    queries, database = np.array([[3.0, 4.0]]), np.array([[6.0, 8.0], [-4.0, 3.0], [0.0, 0.0], [-3.0, -4.0]])
    np.testing.assert_allclose(cosine(queries, database), [[1, 0, 0, -1]], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e15, 1e37])
def test_rows_whose_squares_float32_cannot_hold_have_a_direction(scale: float) -> None:
    rows = np.random.default_rng(1).normal(size=(5, 300))
    rows[3] = 0
    expected = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    np.testing.assert_allclose(unit_rows(rows * scale), expected, rtol=1e-5, atol=1e-7)
    assert unit_rows(rows * scale).dtype == np.float32


@pytest.mark.parametrize("max_bytes", [1, 1000, 1 << 20])
def test_video_similarities_in_blocks_of_any_size_equal_scipys(max_bytes: int) -> None:
    rng = np.random.default_rng(3)
    queries, database = rng.normal(size=(4, 7)), rng.normal(size=(23, 7)).astype(np.float32)
    np.testing.assert_allclose(
        cosine(queries, database, max_bytes=max_bytes), 1 - cdist(queries, database, "cosine"), atol=1e-6
    )
    np.testing.assert_allclose(euclidean(queries, database, max_bytes=max_bytes), -cdist(queries, database), atol=1e-6)


def test_distances_of_near_copies_keep_their_order() -> None:
    # In float32 the squares cancel: both distances would come out as 0 or as 3e-4.
    rng = np.random.default_rng(0)
    query = unit_rows(rng.normal(size=(1, 1024)))
    near, nearer = query.copy(), query.copy()
    near[0, 0] += 2e-5
    nearer[0, 0] += 1e-5
    found = euclidean(query, np.concatenate([near, nearer, query]))[0]
    np.testing.assert_allclose(found, [-2e-5, -1e-5, 0], atol=2e-7)


def test_a_part_of_a_video_scores_one_in_one_direction_only() -> None:
    whole = np.eye(4, dtype=np.float32)
    assert chamfer(whole[:2], whole) == pytest.approx(1.0)
    assert chamfer(whole, whole[:2]) == pytest.approx(0.5)
    assert symmetric_chamfer(whole[:2], whole) == pytest.approx(0.75)


@pytest.mark.parametrize("max_bytes", [1, 4 * 16, 4 * 25, 4 * 400, 1 << 20])
def test_tiles_of_any_size_equal_a_loop_over_pairs(max_bytes: int) -> None:
    queries, targets = videos(0, [1, 5, 9, 2]), videos(1, [3, 1, 14, 2, 2, 7, 1])
    forward = np.array([[looped_chamfer(q, t) for t in targets] for q in queries])
    backward = np.array([[looped_chamfer(t, q) for t in targets] for q in queries])
    np.testing.assert_allclose(chamfer_matrix(queries, targets, max_bytes=max_bytes), forward, atol=1e-6)
    symmetric = chamfer_matrix(queries, targets, symmetric=True, max_bytes=max_bytes)
    np.testing.assert_allclose(symmetric, (forward + backward) / 2, atol=1e-6)


@pytest.mark.parametrize("max_bytes", [20 * 7**2, 20 * 64**2, 1 << 20])
@pytest.mark.parametrize(
    ("query_lengths", "target_lengths"),
    [
        ([1] * 9, [1] * 13),  # as many frames as videos
        ([1, 2, 1, 3, 1, 1], [2, 1, 1, 3, 1, 2, 1]),  # few frames: reduced by segments
        ([40, 17, 30], [25, 60, 18]),  # many: video by video
        ([200], [1, 1, 1, 90, 2]),  # one longer than a tile
        ([3, 4, 5], [300]),
    ],
)
def test_videos_of_all_lengths_equal_a_loop_over_pairs(
    query_lengths: list[int], target_lengths: list[int], max_bytes: int
) -> None:
    queries, targets = videos(4, query_lengths), videos(5, target_lengths)
    forward = np.array([[(q @ t.T).max(1).mean() for t in targets] for q in queries])
    backward = np.array([[(q @ t.T).max(0).mean() for t in targets] for q in queries])
    np.testing.assert_allclose(chamfer_matrix(queries, targets, max_bytes=max_bytes), forward, atol=1e-6)
    both = chamfer_matrix(queries, targets, symmetric=True, max_bytes=max_bytes)
    np.testing.assert_allclose(both, (forward + backward) / 2, atol=1e-6)


def test_queries_stacked_once_serve_any_run_of_targets() -> None:
    queries, targets = videos(6, [3, 8, 1]), videos(7, [4, 1, 9, 2])
    stacked = ChamferQueries(queries, symmetric=True)
    assert len(stacked) == 3
    whole = stacked.similarities(targets)
    parts = [stacked.similarities(targets[:1]), stacked.similarities([]), stacked.similarities(targets[1:])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)
    assert ChamferQueries([]).similarities(targets).shape == (0, 4)


PEAK = """
import numpy as np, torch
from reelkin.search.similarity import ChamferQueries
torch.set_num_threads(1)
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
frames = np.random.default_rng(0).standard_normal((12000, 16), np.float32)
for num_queries, num_targets in ((1, 1), (1, 200), (200, 1), (3000, 1), (3000, 3000)):
    queries, targets = np.split(frames, num_queries), np.split(frames, num_targets)
    ChamferQueries(queries[:1], symmetric=True).similarities(targets[:1])  # threads and libraries
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    ChamferQueries(queries, symmetric=True, max_bytes=16 << 20).similarities(targets)
    print(num_queries, num_targets, status("VmHWM") - before)
"""


def test_memory_is_bounded_however_long_or_many_the_videos() -> None:
    # 12,000 x 12,000 frames: their similarities would fill 576 MB.
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    for line in lines:
        num_queries, num_targets, peak = map(float, line.split())
        stacks, result = 3 * 12_000 * 16 * 4 / 2**20, 3 * num_queries * num_targets * 4 / 2**20
        assert peak < 16 + stacks + result + 16, line


def test_negative_similarities_are_not_clipped_at_zero() -> None:
    assert chamfer(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0], [-0.6, 0.8]])) == pytest.approx(-0.6)


def test_half_precision_frames_are_read() -> None:
    frames = videos(2, [4])[0]
    assert chamfer(frames.astype(np.float16), frames) == pytest.approx(1.0, abs=2e-3)


def test_a_video_without_frames_and_other_widths_are_refused() -> None:
    good = np.ones((2, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="target 1 has shape"):
        chamfer_matrix([good], [good, good[:0]])
    with pytest.raises(ValueError, match="3 dimensions, targets 4"):
        chamfer(good, np.ones((2, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="query 1 has 4 dimensions"):
        chamfer_matrix([good, np.ones((2, 4))], [good])


def test_frames_that_are_not_finite_are_named() -> None:
    good, bad = np.ones((3, 2), dtype=np.float32), np.ones((3, 2), dtype=np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="target 1 holds values that are not finite, the first in frame 2"):
        chamfer_matrix([good], [good, bad])


def test_the_device_is_taken_as_named_or_refused() -> None:
    queries, targets = videos(8, [3, 5]), videos(9, [4, 1, 6])
    rows = np.stack([video[0] for video in targets])
    for compare, given in ((cosine, (rows, rows)), (euclidean, (rows, rows)), (chamfer_matrix, (queries, targets))):
        np.testing.assert_array_equal(compare(*given, device="cpu"), compare(*given))
        with pytest.raises(UsageError, match="device: 'cpu' or 'cuda', got 'meta'"):
            compare(*given, device="meta")
