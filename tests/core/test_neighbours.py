"""Exact neighbours against a full sort."""

from __future__ import annotations

import numpy as np
import pytest

from reelkin.core.neighbours import top_k


def full_sort(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ database.T
    order = np.stack([np.lexsort((np.arange(len(database)), -row))[:k] for row in scores])
    return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize("max_bytes", [1, 4000, 1 << 20])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_blocks_of_any_size_equal_a_full_sort_ties_included(max_bytes: int, k: int) -> None:
    rng = np.random.default_rng(0)
    queries, database = rng.integers(-2, 3, (5, 4)).astype(np.float32), rng.integers(-2, 3, (60, 4)).astype(np.float32)
    scores, indices = top_k(queries, database, k, max_bytes=max_bytes)  # small integers: exact, and full of ties
    expected_scores, expected_indices = full_sort(queries, database, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(scores, expected_scores)


def test_more_than_one_block_of_queries() -> None:
    rng = np.random.default_rng(1)
    queries, database = rng.normal(size=(600, 8)).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    np.testing.assert_array_equal(top_k(queries, database, 3)[1], full_sort(queries, database, 3)[1])


def test_equal_rows_come_in_index_order() -> None:
    database = np.ones((9, 2), dtype=np.float32)
    assert top_k(database[:1], database, 4)[1].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("max_bytes", [1, 1 << 20])
def test_a_query_does_not_find_itself_when_excluded(max_bytes: int) -> None:
    database = np.eye(4, dtype=np.float32)
    scores, indices = top_k(database, database, 4, exclude=np.arange(4), max_bytes=max_bytes)
    for row in range(4):
        assert row not in indices[row, :3]
    assert indices[:, 3].tolist() == [-1] * 4 and np.isneginf(scores[:, 3]).all()


def test_half_precision_rows_are_read_as_float32() -> None:
    rows = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float16)
    scores, _ = top_k(rows[:2], rows, 2)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0].max(), (rows.astype(np.float64) @ rows[0].astype(np.float64)).max(), rtol=1e-6)


def test_nan_and_bad_shapes_are_refused() -> None:
    rows = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="NaN"):
        top_k(np.full((1, 2), np.nan), rows, 1)
    with pytest.raises(ValueError, match=r"\[Q, D\]"):
        top_k(np.ones((1, 3)), rows, 1)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(rows, rows, 0)
