"""Similarities of whole videos by a model, in blocks, each rank scoring its share of the database.

Memory holds the queries' embeddings, one block of the database, and the matrix of similarities: never the embeddings of
the database. Where the queries' frame embeddings do not fit, the database is walked once for each part of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...core.engine.base import Engine
from ...core.errors import ReelkinError, UsageError
from ...core.progress import Progress
from ...core.seeds import generator
from ...search.embed import FeaturesInMemory
from ...search.similarity import TILE_BYTES, ChamferQueries, cosine, euclidean
from ...train.data.sources import FeatureSource
from ...train.embed import BATCH_FRAMES, iter_embeddings, iter_frames
from .annotation import Problem, ProblemLog

log = logging.getLogger("reelkin.evaluate")

Metric = Literal["cosine", "euclidean", "euclidean-legacy", "chamfer", "symmetric-chamfer"]
FRAME_METRICS = ("chamfer", "symmetric-chamfer")
NO_FRAME = "videos without a frame; left out"
NOT_FINITE = "videos whose features are not finite; left out"
CUT = "videos longer than --padding-size, of which a part was taken"
ACTIVATIONS = 16
"""Values that a model holds for each value of a frame's features (feed-forward, attention, padding), roughly."""
BLOCK_BYTES = 256 << 20
"""Features and embeddings of one block; larger ones gain nothing, and ranks meet after each."""
GATHER_BYTES = 64 << 20
DECIMALS = 6
"""Similarities are rounded: float32 sums depend on the block they were made in, and copies of one video should tie on
every machine and with any number of ranks. (A last bit at the very edge of a rounding can still part them.)"""

Matrix = NDArray[np.float32]
Embedded = tuple[str, Matrix]
"""An id and its frame embeddings [T, D], or its video embedding as one row [1, D]."""
Compare = Callable[[Sequence[Embedded]], Matrix]


@dataclass(frozen=True)
class MatrixScores:
    """Similarities held as a matrix; see `scoring.Scores`.

    Attributes:
        queries: Q ids.
        database: V ids.
        matrix: float32 [Q, V], larger is more similar.
        facts: what made it.
        problems: what was left out, and why.
    """

    queries: Sequence[str]
    database: Sequence[str]
    matrix: Matrix
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def rows(self, queries: Sequence[str]) -> Iterator[Matrix]:
        """A row [V] for each of ``queries``. Raises KeyError."""
        row_of = {query: row for row, query in enumerate(self.queries)}
        return (self.matrix[row_of[query]] for query in queries)


def score_embeddings(
    source: FeatureSource,
    model: nn.Module,
    queries: Sequence[str],
    database: Sequence[str],
    *,
    engine: Engine,
    metric: Metric = "cosine",
    max_bytes: int = 8 * 10**9,
    max_frames: int = 0,
) -> MatrixScores | None:
    """Similarity of every query with every video of the database. All ranks call it.

    A video without frames, or with features that are not finite, is left out and named; one that is longer than a block
    makes a block alone.

    Args:
        source: frame features of all ids.
        model: in eval mode; takes these features (`search.embed.check_model`).
        queries, database: ids in ``source``, each once; they may overlap.
        engine: its ranks share the work and each uses its device.
        metric: "cosine" of video embeddings; "euclidean", their distance, negated; "euclidean-legacy", the published
            form 1 - d / max d, the maximum taken over the queries for each video, which ranks wrongly; "chamfer" of
            frame embeddings, from the query to the video; "symmetric-chamfer", the mean of both directions.
        max_bytes: bound on what a rank holds: matrix, queries, a block of the database.
        max_frames: of a longer video a part of this many frames is taken, always the same one; 0: videos are whole.

    Returns:
        The scores on rank 0, rounded to `DECIMALS`; None on the others.

    Raises:
        UsageError: the matrix needs more than half of ``max_bytes``.
        ReelkinError: no query or no video can be used, or the model gives values that are not finite.
    """
    return _Scoring(source, model, engine, metric, max_bytes, max_frames).run(queries, database)


@dataclass
class _Scoring:
    source: FeatureSource
    model: nn.Module
    engine: Engine
    metric: Metric
    max_bytes: int
    max_frames: int
    bad: dict[str, str] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.by_frames = self.metric in FRAME_METRICS
        self.width = max(self.source.dim, int(getattr(self.model, "out_dim", 0)))

    def run(self, queries: Sequence[str], database: Sequence[str]) -> MatrixScores | None:
        """See `score_embeddings`."""
        rank, size = self.engine.rank, self.engine.size
        row_of = {query: row for row, query in enumerate(queries)}
        place_of = {video_id: place for place, video_id in enumerate(database)}
        matrix_bytes = 4 * len(queries) * len(database)
        if matrix_bytes > self.max_bytes / 2:
            raise UsageError(
                f"{len(queries)} x {len(database)} similarities need {matrix_bytes / 1e9:.2g} GB, over half of "
                f"--max-memory-gb {self.max_bytes / 1e9:.3g}; raise that, or evaluate on fewer queries"
            )
        # Shares are of like lengths, so that ranks come to their ends together.
        by_length, sorted_queries = self._by_length(database), self._by_length(queries)
        share = by_length[rank::size]
        column_of = place_of if size == 1 else {video_id: column for column, video_id in enumerate(share)}
        own_QV = np.full((len(queries), len(share)), np.nan, dtype=np.float32)
        left = self.max_bytes - matrix_bytes - (own_QV.nbytes if size > 1 else 0)
        parts, room = self._parts(sorted_queries, left // 4), min(left // 8, BLOCK_BYTES)
        if len(parts) > 1:
            log.info("the queries' frame embeddings do not fit at once: the database is walked %d times", len(parts))
        with Progress(len(parts) * len(share), "videos", "scoring") as progress:
            for part in parts:
                prepared = self._queries(sorted_queries[part], room)
                if prepared is None:
                    continue
                ids, compare = prepared
                rows = [row_of[query] for query in sorted_queries[part] if query in ids]
                self._score(compare, own_QV, rows, share, column_of, room, progress)
        places = [[place_of[video_id] for video_id in by_length[other::size]] for other in range(size)]
        return self._together(queries, database, own_QV, places)

    def _by_length(self, ids: Sequence[str]) -> list[str]:
        return sorted(ids, key=lambda video_id: (self._num_frames(video_id), video_id))

    def _num_frames(self, video_id: str) -> int:
        count = self.source.num_frames(video_id)
        return min(count, self.max_frames) if self.max_frames else count

    def _parts(self, queries: Sequence[str], max_bytes: int) -> list[slice]:
        """Runs of queries whose frame embeddings fit together; one run where only video embeddings are needed."""
        if not self.by_frames:
            return [slice(0, len(queries))]
        # A copy as they come, and one stacked.
        ends = np.cumsum([2 * 4 * self.width * self._num_frames(query) for query in queries])
        parts, begin = [], 0
        while begin < len(queries):
            used = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, used + max_bytes, side="right")))
            parts.append(slice(begin, end))
            begin = end
        return parts

    def _queries(self, queries: Sequence[str], max_bytes: int) -> tuple[set[str], Compare] | None:
        """Embeds the queries, each rank its share: which of them can be used, and what compares videos with them."""
        share = queries[self.engine.rank :: self.engine.size]
        everyone = self._exchange([found for block in self._blocks(share, max_bytes) for found in block])
        order = [query for query in queries if query in everyone]
        if not order:
            return None
        embeddings = [everyone[query] for query in order]
        tile, device = min(TILE_BYTES, max(1, max_bytes // 4)), self.engine.device
        if self.by_frames:
            stacked = ChamferQueries(
                embeddings, symmetric=self.metric == "symmetric-chamfer", max_bytes=tile, device=device
            )
            return set(order), lambda block: stacked.similarities([frames_TD for _, frames_TD in block])
        query_QD = np.concatenate(embeddings)
        compare = cosine if self.metric == "cosine" else euclidean

        def similarities(block: Sequence[Embedded]) -> Matrix:
            video_VD = np.concatenate([video_1D for _, video_1D in block])
            found_QV = compare(query_QD, video_VD, max_bytes=tile, device=device)
            return published_similarity(-found_QV) if self.metric == "euclidean-legacy" else found_QV

        return set(order), similarities

    def _exchange(self, own: Sequence[Embedded]) -> dict[str, Matrix]:
        """The queries' embeddings of all ranks, by id."""
        if self.engine.size == 1:
            return dict(own)
        rows = [row_TD for _, row_TD in own]
        described = self.engine.all_gather_object(
            {"ids": [video_id for video_id, _ in own], "shapes": [list(row.shape) for row in rows]}, "queries"
        )
        width = max((shape[1] for each in described for shape in each["shapes"]), default=1)
        packed = np.concatenate(rows) if rows else np.empty((0, width), dtype=np.float32)
        gathered = self.engine.all_gather(torch.from_numpy(packed), "query embeddings").numpy()
        ids = [video_id for each in described for video_id in each["ids"]]
        counts = [shape[0] for each in described for shape in each["shapes"]]
        return dict(zip(ids, np.split(gathered, np.cumsum(counts)[:-1]), strict=True)) if ids else {}

    def _score(
        self,
        compare: Compare,
        own_QV: Matrix,
        rows: Sequence[int],
        share: Sequence[str],
        column_of: Mapping[str, int],
        max_bytes: int,
        progress: Progress,
    ) -> None:
        """Fill rows of this rank's matrix. Ranks go on block by block: none waits long for another at the end."""
        blocks = self._blocks(share, max_bytes)
        block = next(blocks, None)
        while self.engine.agree(block is not None, "videos are left to score"):
            if block:
                columns = [column_of[video_id] for video_id, _ in block]
                own_QV[np.ix_(rows, columns)] = compare(block)
                progress.advance(len(block))
            block = next(blocks, None)

    def _blocks(self, ids: Sequence[str], max_bytes: int) -> Iterator[list[Embedded]]:
        """Embeddings of runs of videos; runs hold as many frames as fit. Videos that cannot be used are noted."""
        each_frame = 4 * (self.source.dim + (2 * self.width if self.by_frames else 0))
        batch_frames = int(min(BATCH_FRAMES, max(1, max_bytes // (4 * ACTIVATIONS * self.width))))
        held: dict[str, Matrix] = {}
        num_frames = 0
        for video_id in ids:
            features = self._features(video_id)
            if features is None:
                continue
            if held and (num_frames + len(features)) * each_frame > max_bytes:
                yield self._embedded(held, batch_frames)
                held, num_frames = {}, 0
            held[video_id] = features
            num_frames += len(features)
        if held:
            yield self._embedded(held, batch_frames)

    def _embedded(self, held: dict[str, Matrix], batch_frames: int) -> list[Embedded]:
        source, ids, device = FeaturesInMemory(held), list(held), self.engine.device
        if self.by_frames:
            return list(iter_frames(self.model, source, ids, batch_frames=batch_frames, device=device))
        found = iter_embeddings(self.model, source, ids, frames=False, batch_frames=batch_frames, device=device)
        return [(each.video_id, each.video[None]) for each in found]

    def _features(self, video_id: str) -> Matrix | None:
        """Features float32 [T, D] that can be embedded, or None: then it is noted why not."""
        if self.source.num_frames(video_id) < 1:
            self.bad[video_id] = NO_FRAME
            return None
        features = np.asarray(self.source.features(video_id), dtype=np.float32)
        if self.max_frames and len(features) > self.max_frames:
            self.cut.add(video_id)
            begin = int(generator("evaluated part", video_id).integers(len(features) - self.max_frames + 1))
            features = features[begin : begin + self.max_frames]
        if not np.isfinite(features).all():
            self.bad[video_id] = NOT_FINITE
            return None
        return features

    def _together(
        self, queries: Sequence[str], database: Sequence[str], own_QV: Matrix, places: Sequence[Sequence[int]]
    ) -> MatrixScores | None:
        """The whole matrix on rank 0, without videos that cannot be used; ``places``: columns of each rank's share."""
        rank, size = self.engine.rank, self.engine.size
        said = self.engine.all_gather_object({"bad": self.bad, "cut": sorted(self.cut)}, "videos left out")
        bad = {video_id: kind for each in said for video_id, kind in each["bad"].items()}
        problems = ProblemLog()
        for video_id, kind in sorted(bad.items()):
            problems.add(kind, video_id)
        problems.add_all(CUT, sorted({video_id for each in said for video_id in each["cut"]}))
        rows = [row for row, query in enumerate(queries) if query not in bad]
        columns = [column for column, video_id in enumerate(database) if video_id not in bad]
        if not rows or not columns:
            what = "queries" if not rows else "videos to search in"
            named = "; ".join(problem.text for problem in problems.problems)
            raise ReelkinError(f"none of the {what} has features that can be used{': ' if named else ''}{named}")
        matrix_QV = (
            own_QV
            if size == 1
            else self._gathered(
                len(queries), np.concatenate([np.array(each, dtype=np.int64) for each in places]), own_QV
            )
        )
        if rank != 0:
            return None
        if len(rows) < len(queries) or len(columns) < len(database):
            matrix_QV = matrix_QV[np.ix_(rows, columns)]
        np.round(matrix_QV, DECIMALS, out=matrix_QV)
        kept_queries, kept = [queries[row] for row in rows], [database[column] for column in columns]
        return MatrixScores(kept_queries, kept, matrix_QV, {"metric": self.metric}, problems.problems)

    def _gathered(self, num_queries: int, columns: NDArray[np.integer], own_QV: Matrix) -> Matrix:
        """The columns of all ranks, in order, on rank 0; rows go in parts, so that the others need little room."""
        rank = self.engine.rank
        matrix_QV = np.empty((num_queries, len(columns)) if rank == 0 else (0, 0), dtype=np.float32)
        step = max(1, GATHER_BYTES // (4 * max(1, len(columns))))
        for begin in range(0, num_queries, step):
            part = torch.from_numpy(np.ascontiguousarray(own_QV[begin : begin + step].T))
            gathered_VQ = self.engine.all_gather(part, "similarities")
            if rank == 0:
                matrix_QV[begin : begin + step, columns] = gathered_VQ.numpy().T
        return matrix_QV


def published_similarity(distance_QV: Matrix) -> Matrix:
    """The published similarity of Euclidean distances: 1 - d / max d, the maximum over the queries for each video.

    The scale differs from video to video, so a query's ranking by it is not that of the distances.
    """
    largest_V = distance_QV.max(axis=0, keepdims=True)
    scale_V: Matrix = np.where(largest_V > 0, largest_V, 1).astype(np.float32)
    return 1 - distance_QV / scale_V
