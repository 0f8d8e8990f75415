"""Exact nearest neighbours by inner product, in blocks of bounded memory, with ties settled by index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _best_of(
    score_QB: NDArray[np.float32], index_QB: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of B candidates per row, best first; candidates of equal score must come in rising index order."""
    if score_QB.shape[1] > 4 * k:
        # Keep what reaches the k-th value; equal values are cut by position, so no tie is decided by the partition.
        kth_Q1 = -np.partition(-score_QB, k - 1, axis=1)[:, k - 1 : k]
        above, level = score_QB > kth_Q1, score_QB == kth_Q1
        room_Q1 = k - above.sum(axis=1, keepdims=True)
        keep = above | (level & (np.cumsum(level, axis=1) <= room_Q1))
        columns = np.nonzero(keep)[1].reshape(len(score_QB), k)
        score_QB = np.take_along_axis(score_QB, columns, axis=1)
        index_QB = np.take_along_axis(index_QB, columns, axis=1)
    order = np.argsort(-score_QB, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(score_QB, order, axis=1), np.take_along_axis(index_QB, order, axis=1)


def top_k(
    queries: NDArray[np.floating],
    database: NDArray[np.floating],
    k: int,
    *,
    exclude: NDArray[np.integer] | None = None,
    max_bytes: int = 64 << 20,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k database rows with the largest inner product for each query.

    Args:
        queries: [Q, D] real.
        database: [V, D] real; may be memory-mapped: it is read block by block.
        k: neighbours per query; at most V are returned.
        exclude: [Q] the database row that a query must not find (itself), or -1; its place goes to the next row.
        max_bytes: bound on the score block held at once.

    Returns:
        scores float32 [Q, k], best first, and indices int64 [Q, k]. Rows of equal score come in rising index order.
        Where fewer than k rows remain (k > V, or V - 1 after an exclusion) the last places hold -inf and index -1.

    Raises:
        ValueError: shapes do not match, k < 1, or a score is NaN.
    """
    query_QD = np.ascontiguousarray(queries, dtype=np.float32)
    if query_QD.ndim != 2 or database.ndim != 2 or query_QD.shape[1] != database.shape[1]:
        raise ValueError(f"queries {query_QD.shape} and database {database.shape} must be [Q, D] and [V, D]")
    if k < 1:
        raise ValueError(f"k is {k}; at least 1")
    num_queries, num_rows = len(query_QD), len(database)
    width = min(k, num_rows)
    rows = max(1, min(num_rows, max_bytes // (4 * max(1, min(num_queries, 256)))))
    best_score = np.full((num_queries, width), -np.inf, dtype=np.float32)
    best_index = np.full((num_queries, width), -1, dtype=np.int64)
    for begin in range(0, num_rows, rows):
        block_BD = np.ascontiguousarray(database[begin : begin + rows], dtype=np.float32)
        index_B = np.arange(begin, begin + len(block_BD))
        for first in range(0, num_queries, 256):
            part = slice(first, min(first + 256, num_queries))
            score_QB = query_QD[part] @ block_BD.T
            if np.isnan(score_QB).any():
                bad = first + int(np.isnan(score_QB).any(axis=1).argmax())
                raise ValueError(f"query {bad} has a NaN score; look for non-finite embeddings")
            index_QB = np.broadcast_to(index_B, score_QB.shape)
            if exclude is not None:
                hidden = index_QB == np.asarray(exclude)[part, None]
                score_QB = np.where(hidden, -np.inf, score_QB)
                index_QB = np.where(hidden, -1, index_QB)
            joined = np.concatenate([best_score[part], score_QB], axis=1)
            joined_index = np.concatenate([best_index[part], index_QB], axis=1)
            best_score[part], best_index[part] = _best_of(joined, joined_index, width)
    return best_score, best_index
