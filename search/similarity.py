"""How alike two videos are: cosine and Euclidean distance of video embeddings, chamfer similarity of frame embeddings.

``chamfer(q, t)`` is the mean over the query's frames of the largest dot product with any frame of the target: a query
that is a part of the target scores high, the reverse need not. The symmetric form is the mean of both directions.

Everything is exact (float32 products, means in float64) and works in blocks, on the CPU or a GPU. For chamfer the
frames of many videos are stacked, videos of one length beside each other, multiplied once per tile and reduced over
each video's rows: memory holds one tile and a maximum per frame and video, however long the videos are. On a CPU a tile
stays in the cache between its product and its maxima.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.devices import usable_device

Frames = NDArray[np.floating]
TILE_BYTES = 64 << 20
CACHED_VALUES = 1 << 20
"""Values of a tile for each thread of a CPU: 4 MiB. Smaller tiles cost more calls, larger ones leave the cache before
their maxima are taken (measured)."""
MANY_FRAMES = 12
"""Mean length from which maxima over columns are faster on a CPU as they lie than over the transpose's rows
(measured)."""
SMALLEST_LENGTH = 1e-15
"""Of a row whose squares float32 can add up without loss."""
ROW_UNIT = 16
"""Rows of a tile begin at odd multiples of 64 bytes: MKL's product takes 1.6 times as long where they do not begin at
multiples, and a transpose 3 times as long where they begin at a power of two (measured)."""


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
    device = usable_device(device)
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
    device = usable_device(device)
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
    row_ND: NDArray[np.floating] = np.asarray(rows, dtype=np.float32)
    with np.errstate(over="ignore"):
        length = np.linalg.norm(row_ND, axis=-1, keepdims=True)
    if not ((length > SMALLEST_LENGTH) & np.isfinite(length)).all():  # squares may lie beyond float32
        row_ND = row_ND.astype(np.float64)
        length = np.linalg.norm(row_ND, axis=-1, keepdims=True)
    return np.divide(row_ND, np.where(length > 0, length, 1)).astype(np.float32, copy=False)


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
        self._device = usable_device(device)
        self._symmetric = symmetric
        # A tile, its transpose, and the maxima in float32 and float64 hold at most so many values each.
        self._values = max(1, max_bytes // 20)
        on_cpu = self._device.type == "cpu"
        self._side = math.isqrt(min(self._values, CACHED_VALUES * torch.get_num_threads()) if on_cpu else self._values)
        self._stacks = list(_stacks(queries, self._side, "query", self._device))
        self._places = _inverse([place for stack in self._stacks for place in stack.places])
        self._room = torch.empty(self._side, _row_width(self._side), device=self._device)

    def __len__(self) -> int:
        return sum(len(stack.lengths) for stack in self._stacks)

    def similarities(self, targets: Iterable[Frames]) -> NDArray[np.float32]:
        """Chamfer similarity float32 [Q, V] of the queries with V targets [Tt, D]. Raises ValueError."""
        columns = []
        for target in _stacks(targets, self._side, "target", self._device):
            rows = [self._compare(query, target) for stack in self._stacks for query in self._fitting(stack, target)]
            column_QV = torch.cat(rows).float().cpu() if rows else torch.empty(0, len(target.lengths))
            columns.append(column_QV[self._places][:, _inverse(target.places)])
        result_QV: NDArray[np.float32] = torch.cat(columns, 1).numpy() if columns else np.empty((len(self), 0), "f4")
        return result_QV

    def _fitting(self, query: _Stack, target: _Stack) -> Iterator[_Stack]:
        """Parts of a stack of queries whose maxima per frame of the target fit; the whole but for very long targets."""
        count = max(1, self._values // len(target.frames)) if self._symmetric else len(query.lengths)
        return (query.videos(begin, begin + count) for begin in range(0, len(query.lengths), count))

    def _compare(self, query: _Stack, target: _Stack) -> torch.Tensor:
        """Chamfer similarities float64 [q, v] of two stacks; one long video is walked in pieces of ``side`` frames."""
        if query.frames.shape[1] != target.frames.shape[1]:
            raise ValueError(f"queries have {query.frames.shape[1]} dimensions, targets {target.frames.shape[1]}")
        forward_QV = torch.zeros(len(query.lengths), len(target.lengths), dtype=torch.float64, device=self._device)
        backward: dict[int, torch.Tensor] = {}
        for columns, query_lengths in query.pieces(self._side):
            forward_VM: torch.Tensor | None = None
            for rows, target_lengths in target.pieces(self._side):
                tile = self._product(target.frames[rows], query.frames[columns])
                forward_VM = _larger(forward_VM, _reduce(tile, target_lengths, "max"))
                if self._symmetric:
                    found_QN = _column_maxima(tile, query_lengths)
                    backward[rows.start] = _larger(backward.get(rows.start), found_QN)
            assert forward_VM is not None
            forward_QV += _sums(forward_VM, query_lengths)
        forward_QV /= torch.tensor(query.lengths, device=self._device)[:, None]
        if not self._symmetric:
            return forward_QV
        # Of several pieces, all of one video, the sums add up.
        sums = [_sums(backward.pop(rows.start), lengths) for rows, lengths in target.pieces(self._side)]
        backward_VQ = torch.stack(sums).sum(0)
        backward_VQ /= torch.tensor(target.lengths, device=self._device)[:, None]
        return (forward_QV + backward_VQ.T) / 2

    def _product(self, target_ND: torch.Tensor, query_ND: torch.Tensor) -> torch.Tensor:
        """Dot products float32 [target frames, query frames], in memory that the next call uses again."""
        return torch.mm(target_ND, query_ND.T, out=self._room[: len(target_ND), : len(query_ND)])


@dataclass(frozen=True)
class _Stack:
    """Frames of some videos, float32 [N, D], by rising length; how many each has, and its place among all."""

    frames: torch.Tensor
    lengths: list[int]
    places: list[int]

    def pieces(self, side: int) -> Iterator[tuple[slice, list[int]]]:
        """Runs of at most ``side`` frames, each with how many of them its videos have: the whole stack, or, of one
        video alone, as many as it takes."""
        if len(self.lengths) > 1:
            yield slice(0, len(self.frames)), self.lengths
            return
        for begin in range(0, len(self.frames), side):
            end = min(begin + side, len(self.frames))
            yield slice(begin, end), [end - begin]

    def videos(self, begin: int, end: int) -> _Stack:
        """A stack of some of the videos, without copying."""
        first, last = sum(self.lengths[:begin]), sum(self.lengths[:end])
        return _Stack(self.frames[first:last], self.lengths[begin:end], self.places[begin:end])


def _reduce(rows_NX: torch.Tensor, lengths: list[int], how: Literal["max", "sum"]) -> torch.Tensor:
    """Maximum or sum over runs of rows: [N, X] -> [len(lengths), X]. Neighbours of one length are reduced at once."""
    if rows_NX.is_cuda:
        return torch.segment_reduce(rows_NX, how, lengths=torch.tensor(lengths, device=rows_NX.device), axis=0)
    alike = [(length, len(list(group))) for length, group in groupby(lengths)]
    runs = rows_NX.split([length * count for length, count in alike])
    blocks = [run.unflatten(0, (count, length)) for run, (length, count) in zip(runs, alike, strict=True)]
    return torch.cat([block.amax(1) if how == "max" else block.sum(1) for block in blocks])


def _larger(best: torch.Tensor | None, found: torch.Tensor) -> torch.Tensor:
    return found if best is None else torch.maximum(best, found)


def _sums(values_XN: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Sums over runs of columns: [X, N] -> float64 [len(lengths), X]."""
    return _reduce(values_XN.T.contiguous().double(), lengths, "sum")


def _column_maxima(tile_NM: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Maximum over runs of columns: [N, M] -> [len(lengths), N]."""
    if tile_NM.is_cuda or tile_NM.shape[1] < MANY_FRAMES * len(lengths):
        return _reduce(tile_NM.T.contiguous(), lengths, "max")
    begins = np.cumsum([0, *lengths[:-1]])
    return torch.from_numpy(np.maximum.reduceat(tile_NM.numpy(), begins, axis=1)).T


def _inverse(places: list[int]) -> torch.Tensor:
    """Which row belongs in each place, int64, given the place of each row."""
    return torch.tensor(places, dtype=torch.int64).argsort()


def _row_width(length: int) -> int:
    """The least odd multiple of `ROW_UNIT` that holds a row."""
    return (-(-length // ROW_UNIT) | 1) * ROW_UNIT


def _stacks(videos: Iterable[Frames], side: int, role: str, device: torch.device) -> Iterator[_Stack]:
    """Runs of consecutive videos of at most ``side`` frames together (one longer video alone)."""
    held: list[tuple[int, NDArray[np.float32]]] = []
    num_frames = 0
    for index, video in enumerate(videos):
        frames = _checked(video, f"{role} {index}")
        if held and frames.shape[1] != held[0][1].shape[1]:
            raise ValueError(f"{role} {index} has {frames.shape[1]} dimensions, the one before {held[0][1].shape[1]}")
        if held and num_frames + len(frames) > side:
            yield _stacked(held, device)
            held, num_frames = [], 0
        held.append((index, frames))
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


def _stacked(held: list[tuple[int, NDArray[np.float32]]], device: torch.device) -> _Stack:
    held = sorted(held, key=lambda each: len(each[1]))
    frames = torch.from_numpy(np.concatenate([video for _, video in held])).to(device)
    return _Stack(frames, [len(video) for _, video in held], [place for place, _ in held])
