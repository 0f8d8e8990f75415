"""Similarities against a plain loop over frames."""

from __future__ import annotations

import numpy as np
import pytest

from reelkin.search.similarity import chamfer, chamfer_matrix, cosine, symmetric_chamfer, unit_rows


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
