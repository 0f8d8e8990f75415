"""How alike two videos are: cosine and Euclidean distance of video embeddings, chamfer similarity of frame embeddings.

``chamfer(q, t)`` is the mean over the query's frames of the largest dot product with any frame of the target: a query
that is a part of the target scores high, the reverse need not. The symmetric form is the mean of both directions.

Everything is exact (float32 products, means in float64) and works in blocks, on the CPU or a GPU. For chamfer the
frames of many videos are stacked, multiplied once per tile and reduced over each video's rows: memory holds one tile
and a maximum per frame and video, however long the videos are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

Frames = NDArray[np.floating]
TILE_BYTES = 64 << 20
FEW_FRAMES = 4
"""Mean length from which a loop over videos is faster on a CPU than torch's reduction by segments (measured)."""
MANY_FRAMES = 16
"""Mean length from which maxima over columns are faster on a CPU than over the rows of the transpose (measured)."""
ROW_UNIT = 16
"""Rows of a tile begin at multiples of 64 bytes: MKL's product takes 1.6 times as long where they do not (measured)."""


def cosine(
    queries: Frames, database: Frames, *, max_bytes: int = TILE_BYTES, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Cosine similarity of video embeddings.

    Args:
        queries: [Q, D] and database: [V, D], real; rows need not have unit length.
        max_bytes: bound on what is held beside the arguments, the queries' copy and the result.
        device: where the products are made.

    Returns:
        float32 [Q, V] in [-1, 1] (but for rounding); a row of zeros has similarity 0 with everything.
    """
    query_QD = torch.from_numpy(unit_rows(queries)).to(device)
    result_QV = np.empty((len(queries), len(database)), dtype=np.float32)
    for part in _row_blocks(database, len(queries), max_bytes, itemsize=4):
        block_VD = torch.from_numpy(unit_rows(database[part])).to(device)
        result_QV[:, part] = (query_QD @ block_VD.T).cpu().numpy()
    return result_QV


def euclidean(
    queries: Frames, database: Frames, *, max_bytes: int = TILE_BYTES, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Euclidean distance of video embeddings, negated so that larger is more similar.

    Distances come from products in float64: of two equal rows it is 0 to within 1e-7 of their length, where float32
    would leave 1e-3 and change the order of near copies.

    Args:
        queries: [Q, D] and database: [V, D], real, taken as they are; the rest as in `cosine`.

    Returns:
        float32 [Q, V], at most 0.
    """
    query_QD = torch.from_numpy(np.array(queries, dtype=np.float64)).to(device)
    square_Q1 = (query_QD**2).sum(1, keepdim=True)
    result_QV = np.empty((len(queries), len(database)), dtype=np.float32)
    for part in _row_blocks(database, len(queries), max_bytes, itemsize=8):
        block_VD = torch.from_numpy(np.array(database[part], dtype=np.float64)).to(device)
        square_QV = square_Q1 + (block_VD**2).sum(1) - 2 * (query_QD @ block_VD.T)
        result_QV[:, part] = -square_QV.clamp_(min=0).sqrt_().cpu().numpy()
    return result_QV


def unit_rows(rows: Frames) -> NDArray[np.float32]:
    """Rows divided by their Euclidean length, float32 [..., D]; rows of zeros stay zeros."""
    row_ND = np.asarray(rows, dtype=np.float32)
    length = np.linalg.norm(row_ND, axis=-1, keepdims=True)
    return np.divide(row_ND, np.where(length > 0, length, 1), dtype=np.float32)


def _row_blocks(rows: Frames, num_queries: int, max_bytes: int, *, itemsize: int) -> Iterator[slice]:
    """Parts of ``rows`` whose copies, and products with the queries, stay within ``max_bytes`` (one row at least)."""
    each = 2 * itemsize * (rows.shape[1] + num_queries)
    count = max(1, max_bytes // each)
    return (slice(begin, begin + count) for begin in range(0, len(rows), count))


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
    queries: Sequence[Frames],
    targets: Sequence[Frames],
    *,
    symmetric: bool = False,
    max_bytes: int = TILE_BYTES,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Chamfer similarity of every query with every target.

    Args:
        queries: Q arrays [Tq, D] of frame embeddings, rows of unit length; dtypes may differ (float16 is read as
            float32). All of them are held as float32.
        targets: V arrays [Tt, D]; indexed once each, one after another, so a lazy sequence over a store will do.
        symmetric: average both directions.
        max_bytes: bound on what is held beside the queries and one run of targets.
        device: where the products are made.

    Returns:
        float32 [Q, V].

    Raises:
        ValueError: a video has no frame or one that is not finite, or widths differ.
    """
    return ChamferQueries(queries, symmetric=symmetric, max_bytes=max_bytes, device=device).similarities(targets)


class ChamferQueries:
    """Frame embeddings of queries, stacked once, to be compared with any number of targets.

    Args:
        queries, symmetric, max_bytes, device: as in `chamfer_matrix`.

    Raises:
        ValueError: as `chamfer_matrix`.
    """

    def __init__(
        self,
        queries: Iterable[Frames],
        *,
        symmetric: bool = False,
        max_bytes: int = TILE_BYTES,
        device: torch.device | str = "cpu",
    ) -> None:
        # A tile, its transpose, and the maxima in float32 and float64 are each at most as large as side x side.
        self._side = max(1, int((max_bytes / 20) ** 0.5))
        self._symmetric = symmetric
        self._device = torch.device(device)
        self._stacks = list(_stacks(queries, self._side, "query", self._device))
        self._room = torch.empty(self._side, _round_up(self._side), device=self._device)

    def __len__(self) -> int:
        return sum(len(stack.lengths) for stack in self._stacks)

    def similarities(self, targets: Iterable[Frames]) -> NDArray[np.float32]:
        """Chamfer similarity float32 [Q, V] of the queries with V targets [Tt, D]. Raises ValueError."""
        columns = []
        for target in _stacks(targets, self._side, "target", self._device):
            rows = [self._compare(query, target) for stack in self._stacks for query in self._fitting(stack, target)]
            columns.append(torch.cat(rows).float().cpu() if rows else torch.empty(0, len(target.lengths)))
        result_QV: NDArray[np.float32] = torch.cat(columns, 1).numpy() if columns else np.empty((len(self), 0), "f4")
        return result_QV

    def _fitting(self, query: _Stack, target: _Stack) -> Iterator[_Stack]:
        """Parts of a stack of queries whose maxima per frame of the target fit; the whole but for very long targets."""
        count = max(1, self._side**2 // len(target.frames)) if self._symmetric else len(query.lengths)
        return (query.videos(begin, begin + count) for begin in range(0, len(query.lengths), count))

    def _compare(self, query: _Stack, target: _Stack) -> torch.Tensor:
        """Chamfer similarities float64 [q, v] of two stacks; one long video is walked in pieces of ``side`` frames."""
        if query.frames.shape[1] != target.frames.shape[1]:
            raise ValueError(f"queries have {query.frames.shape[1]} dimensions, targets {target.frames.shape[1]}")
        num_queries, num_targets = len(query.lengths), len(target.lengths)
        nowhere: dict[str, Any] = {"fill_value": -torch.inf, "device": self._device}
        forward_QV = torch.zeros(num_queries, num_targets, dtype=torch.float64, device=self._device)
        backward_QN = torch.full((num_queries, len(target.frames)), **nowhere) if self._symmetric else None
        for columns in _pieces(len(query.frames), self._side):
            videos_of_query, query_lengths = query.part(columns)
            best_VN = torch.full((num_targets, columns.stop - columns.start), **nowhere)
            for rows in _pieces(len(target.frames), self._side):
                tile = self._product(target.frames[rows], query.frames[columns])
                videos, lengths = target.part(rows)
                best = _reduce(tile, lengths, "max")
                best_VN[videos] = torch.maximum(best_VN[videos], best)
                if backward_QN is not None:
                    best = _column_maxima(tile, query_lengths)
                    backward_QN[videos_of_query, rows] = torch.maximum(backward_QN[videos_of_query, rows], best)
            forward_QV[videos_of_query] += _reduce(best_VN.T.double(), query_lengths, "sum")
        forward_QV /= torch.tensor(query.lengths, device=self._device)[:, None]
        if backward_QN is None:
            return forward_QV
        backward_VQ = _reduce(backward_QN.T.double(), target.lengths, "sum")
        backward_VQ /= torch.tensor(target.lengths, device=self._device)[:, None]
        return (forward_QV + backward_VQ.T) / 2

    def _product(self, target_ND: torch.Tensor, query_ND: torch.Tensor) -> torch.Tensor:
        """Dot products float32 [target frames, query frames], in memory that the next call uses again."""
        return torch.mm(target_ND, query_ND.T, out=self._room[: len(target_ND), : len(query_ND)])


@dataclass(frozen=True)
class _Stack:
    """Frames of consecutive videos, float32 [N, D], and how many each has."""

    frames: torch.Tensor
    lengths: list[int]

    def part(self, rows: slice) -> tuple[slice, list[int]]:
        """The videos that frames ``rows`` belong to, and how many of these frames each has."""
        ends = np.cumsum(self.lengths)
        first = int(np.searchsorted(ends, rows.start, side="right"))
        last = int(np.searchsorted(ends, rows.stop, side="left")) + 1
        cut = np.diff(np.clip(ends[first:last], rows.start, rows.stop), prepend=rows.start)
        return slice(first, last), cut.tolist()

    def videos(self, begin: int, end: int) -> _Stack:
        """A stack of some of the videos, without copying."""
        first, last = sum(self.lengths[:begin]), sum(self.lengths[:end])
        return _Stack(self.frames[first:last], self.lengths[begin:end])


def _pieces(length: int, side: int) -> Iterator[slice]:
    return (slice(begin, min(begin + side, length)) for begin in range(0, length, side))


def _reduce(rows_NX: torch.Tensor, lengths: list[int], how: Literal["max", "sum"]) -> torch.Tensor:
    """Maximum or sum over runs of rows: [N, X] -> [len(lengths), X]."""
    if len(lengths) == len(rows_NX):
        return rows_NX
    if rows_NX.is_cuda or len(rows_NX) < FEW_FRAMES * len(lengths):
        return torch.segment_reduce(rows_NX, how, lengths=torch.tensor(lengths, device=rows_NX.device), axis=0)
    runs = rows_NX.split(lengths)
    return torch.stack([run.amax(0) if how == "max" else run.sum(0) for run in runs])


def _column_maxima(tile_NM: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Maximum over runs of columns: [N, M] -> [len(lengths), N]."""
    if tile_NM.is_cuda or tile_NM.shape[1] < MANY_FRAMES * len(lengths):
        return _reduce(tile_NM.T.contiguous(), lengths, "max")
    return torch.stack([run.amax(1) for run in tile_NM.split(lengths, 1)])


def _round_up(length: int) -> int:
    return -(-length // ROW_UNIT) * ROW_UNIT


def _stacks(videos: Iterable[Frames], side: int, role: str, device: torch.device) -> Iterator[_Stack]:
    """Runs of consecutive videos of at most ``side`` frames together (one longer video alone)."""
    held: list[NDArray[np.float32]] = []
    num_frames = 0
    for index, video in enumerate(videos):
        frames = _checked(video, f"{role} {index}")
        if held and frames.shape[1] != held[0].shape[1]:
            raise ValueError(f"{role} {index} has {frames.shape[1]} dimensions, the one before {held[0].shape[1]}")
        if held and num_frames + len(frames) > side:
            yield _stacked(held, device)
            held, num_frames = [], 0
        held.append(frames)
        num_frames += len(frames)
    if held:
        yield _stacked(held, device)


def _checked(video: Frames, name: str) -> NDArray[np.float32]:
    frames = np.asarray(video, dtype=np.float32)
    if frames.ndim != 2 or len(frames) == 0:
        raise ValueError(f"{name} has shape {frames.shape}; frame embeddings must be [T, D] with T at least 1")
    finite = np.isfinite(frames).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} holds values that are not finite, the first in frame {int(finite.argmin())}")
    return frames


def _stacked(held: list[NDArray[np.float32]], device: torch.device) -> _Stack:
    return _Stack(torch.from_numpy(np.concatenate(held)).to(device), [len(frames) for frames in held])
