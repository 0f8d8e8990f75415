"""How alike two videos are: the cosine of video embeddings, and the chamfer similarity of frame embeddings.

``chamfer(q, t)`` is the mean over the query's frames of the largest dot product with any frame of the target: a query
that is a part of the target scores high, the reverse need not. The symmetric form is the mean of both directions.

The matrix form stacks the frames of many videos, multiplies once per tile and reduces over segments: memory holds one
tile and a maximum per frame and video, however long the videos are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.floating]
TILE_BYTES = 64 << 20


def cosine(queries: Frames, database: Frames) -> NDArray[np.float32]:
    """Cosine similarity of video embeddings.

    Args:
        queries: [Q, D] and database: [V, D], real; rows need not have unit length.

    Returns:
        float32 [Q, V] in [-1, 1]; a row of zeros has similarity 0 with everything.
    """
    return unit_rows(queries) @ unit_rows(database).T


def unit_rows(rows: Frames) -> NDArray[np.float32]:
    """Rows divided by their Euclidean length, float32 [..., D]; rows of zeros stay zeros."""
    row_ND = np.asarray(rows, dtype=np.float32)
    length = np.linalg.norm(row_ND, axis=-1, keepdims=True)
    return np.divide(row_ND, np.where(length > 0, length, 1), dtype=np.float32)


def chamfer(query: Frames, target: Frames) -> float:
    """Mean over the query's frames of the maximum over the target's frames of the dot product.

    Args:
        query: [Tq, D] and target: [Tt, D], rows of unit length for values in [-1, 1].
    """
    return float(chamfer_matrix([query], [target])[0, 0])


def symmetric_chamfer(query: Frames, target: Frames) -> float:
    """Mean of ``chamfer(query, target)`` and ``chamfer(target, query)``."""
    return float(chamfer_matrix([query], [target], symmetric=True)[0, 0])


def chamfer_matrix(
    queries: Sequence[Frames], targets: Sequence[Frames], *, symmetric: bool = False, max_bytes: int = TILE_BYTES
) -> NDArray[np.float32]:
    """Chamfer similarity of every query with every target.

    Args:
        queries: Q arrays [Tq, D] of frame embeddings, rows of unit length; dtypes may differ (float16 is read as
            float32).
        targets: V arrays [Tt, D]; indexed one after another, so a lazy sequence over a store will do.
        symmetric: average both directions.
        max_bytes: bound on the tile of frame similarities (float32) held at once.

    Returns:
        float32 [Q, V].

    Raises:
        ValueError: a video has no frame, or widths differ.
    """
    side = max(1, int((max_bytes / 4) ** 0.5))
    result_QV = np.empty((len(queries), len(targets)), dtype=np.float32)
    for q_begin, query_stack, query_offsets in _stacks(queries, side, "query"):
        q_part = slice(q_begin, q_begin + len(query_offsets) - 1)
        for t_begin, target_stack, target_offsets in _stacks(targets, side, "target"):
            if query_stack.shape[1] != target_stack.shape[1]:
                raise ValueError(f"queries have {query_stack.shape[1]} dimensions, targets {target_stack.shape[1]}")
            t_part = slice(t_begin, t_begin + len(target_offsets) - 1)
            result_QV[q_part, t_part] = _tile(
                query_stack, query_offsets, target_stack, target_offsets, symmetric=symmetric, side=side
            )
    return result_QV


def _stacks(
    videos: Sequence[Frames], side: int, role: str
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int64]]]:
    """Runs of consecutive videos of at most ``side`` frames together (one longer video alone).

    Yields the first video's number, the frames [N, D] and the offsets [videos + 1] into them.
    """
    held: list[NDArray[np.float32]] = []
    begin, num_frames = 0, 0
    for index in range(len(videos)):
        frames = np.asarray(videos[index], dtype=np.float32)
        if frames.ndim != 2 or len(frames) == 0:
            raise ValueError(
                f"{role} {index} has shape {frames.shape}; frame embeddings must be [T, D] with T at least 1"
            )
        if held and (num_frames + len(frames) > side or frames.shape[1] != held[0].shape[1]):
            if frames.shape[1] != held[0].shape[1]:
                raise ValueError(f"{role} {index} has {frames.shape[1]} dimensions, the one before {held[0].shape[1]}")
            yield begin, np.concatenate(held), np.cumsum([0, *map(len, held)])
            begin, held, num_frames = index, [], 0
        held.append(frames)
        num_frames += len(frames)
    if held:
        yield begin, np.concatenate(held), np.cumsum([0, *map(len, held)])


def _tile(
    query: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    target: NDArray[np.float32],
    target_offsets: NDArray[np.int64],
    *,
    symmetric: bool,
    side: int,
) -> NDArray[np.float64]:
    """Chamfer similarities [q, v] of two stacks; a stack of one long video is walked in pieces of ``side`` frames."""
    num_queries, num_targets = len(query_offsets) - 1, len(target_offsets) - 1
    best_for_query = np.full((len(query), num_targets), -np.inf, dtype=np.float32)
    best_for_target = np.full((num_queries, len(target)), -np.inf, dtype=np.float32)
    for top in range(0, len(query), side):
        rows = slice(top, min(top + side, len(query)))
        for left in range(0, len(target), side):
            columns = slice(left, min(left + side, len(target)))
            similarity = query[rows] @ target[columns].T
            videos, starts = _segments(target_offsets, columns)
            np.maximum(
                best_for_query[rows, videos],
                np.maximum.reduceat(similarity, starts, axis=1),
                out=best_for_query[rows, videos],
            )
            if symmetric:
                videos, starts = _segments(query_offsets, rows)
                np.maximum(
                    best_for_target[videos, columns],
                    np.maximum.reduceat(similarity, starts, axis=0),
                    out=best_for_target[videos, columns],
                )
    sums = np.add.reduceat(best_for_query, query_offsets[:-1], axis=0, dtype=np.float64)
    forward = sums / np.diff(query_offsets)[:, None]
    if not symmetric:
        return forward
    backward = np.add.reduceat(best_for_target, target_offsets[:-1], axis=1, dtype=np.float64) / np.diff(target_offsets)
    return (forward + backward) / 2


def _segments(offsets: NDArray[np.int64], part: slice) -> tuple[slice, NDArray[np.int64]]:
    """The videos that frames ``part`` of a stack belong to, and where each begins inside the part."""
    first = int(np.searchsorted(offsets, part.start, side="right")) - 1
    last = int(np.searchsorted(offsets, part.stop, side="left"))
    return slice(first, last), np.maximum(offsets[first:last], part.start) - part.start
