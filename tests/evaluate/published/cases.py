"""Random benchmarks in small, with all that goes wrong: ties, empty lists, missing videos and queries, unknown ids,
pairs without a score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelkin.evaluate.published.annotation import Annotation


@dataclass
class Table:
    """Scores held as a matrix."""

    queries: Sequence[str]
    database: Sequence[str]
    scores_QV: NDArray[np.floating]

    def rows(self, queries: Sequence[str]) -> Iterator[NDArray[np.floating]]:
        places = {query: place for place, query in enumerate(self.queries)}
        for query in queries:
            yield self.scores_QV[places[query]]

    def dictionary(self) -> dict[str, dict[str, float]]:
        """As similarity files have it: without the pairs that have no score."""
        return {
            query: {
                video_id: float(score)
                for video_id, score in zip(self.database, row, strict=True)
                if not np.isnan(score)
            }
            for query, row in zip(self.queries, self.scores_QV, strict=True)
        }


def annotation(dataset: str, rng: np.random.Generator) -> Annotation:
    """A benchmark with a few queries and up to some twenty videos."""
    database = [f"v{n}" for n in range(rng.integers(1, 20))]
    inside = [f"v{n}" for n in range(rng.integers(0, min(5, len(database)) + 1))]
    outside = [f"q{n}" for n in range(rng.integers(0 if inside else 1, 4))]
    queries = [*inside, *outside]
    if dataset in ("VCDB", "VCDB-CORE", "CC_WEB_VIDEO"):
        database += outside
    elif dataset in ("EVVE",):
        queries = [f"q{n}" for n in range(rng.integers(1, 6))]
    labels = {
        "FIVR": ("ND", "DS", "CS", "IS", "DA"),
        "VCDB": ("copy",),
        "CC_WEB_VIDEO": ("E", "S", "L", "M", "V", "X"),
        "EVVE": ("event",),
        "SVD": ("1", "0"),
        "PAIRS": ("positive", "negative"),
    }[dataset.split("-")[0]]
    overlapping = dataset.startswith("FIVR")
    judged = {query: _judgements(rng, query, database, labels, overlapping, dataset) for query in queries}
    options: dict[str, object] = {}
    if dataset == "CC_WEB_VIDEO":
        options["excluded"] = {query: frozenset(_some(rng, [*database, "#7"], 0.2)) for query in queries}
        for query in queries:
            judged[query]["E"] = tuple(dict.fromkeys((*judged[query].get("E", ()), query)))
            for label in labels[1:]:
                judged[query][label] = tuple(v for v in judged[query].get(label, ()) if v != query)
            if rng.random() < 0.3:
                judged[query]["S"] = (*judged[query]["S"], "#7")
    if dataset == "EVVE":
        events = {name: judged[queries[0]] if name == "a" else judged[queries[-1]] for name in ("a", "b")}
        options["groups"] = {query: str(rng.choice(["a", "b"])) for query in queries}
        judged = {query: events[options["groups"][query]] for query in queries}
        if rng.random() < 0.5:
            positives = {v for of_query in judged.values() for ids in of_query.values() for v in ids}
            null = frozenset(_some(rng, sorted(set(database) - positives), 0.2))
            options["unclear"] = dict.fromkeys(queries, null)
    if dataset == "PAIRS":
        named = {q: {v for ids in judged[q].values() for v in ids} for q in queries}
        options["unclear"] = {q: frozenset(_some(rng, sorted(set(database) - named[q]), 0.1)) for q in queries}
        options["judged_only"] = bool(rng.random() < 0.3)
    if dataset == "SVD":
        options["judged_only"] = True
        if rng.random() < 0.5:
            options["unlabeled"] = frozenset(f"u{n}" for n in range(rng.integers(1, 8)))
            database += sorted(options["unlabeled"])
    return Annotation(
        dataset=dataset,
        version="",
        queries=tuple(queries),
        database=None if dataset == "PAIRS" else tuple(rng.permutation(database).tolist()),
        labels=judged,
        **options,
    )


def _judgements(
    rng: np.random.Generator,
    query: str,
    database: Sequence[str],
    labels: Sequence[str],
    overlapping: bool,
    dataset: str,
) -> dict[str, tuple[str, ...]]:
    share = rng.choice([0.0, 0.1, 0.5, 1.0], p=[0.1, 0.3, 0.5, 0.1])
    pool = list(database)
    if dataset.startswith("FIVR") or (dataset in ("SVD", "PAIRS") and rng.random() < 0.2):
        pool = list(dict.fromkeys((*pool, query)))
    if dataset.startswith("VCDB"):
        pool = [video_id for video_id in pool if video_id != query]
    judged: dict[str, list[str]] = {label: [] for label in labels}
    for video_id in _some(rng, pool, share):
        times = 2 if overlapping and rng.random() < 0.3 else 1
        for label in rng.choice(labels, size=min(times, len(labels)), replace=False):
            judged[str(label)].append(video_id)
    return {label: tuple(ids) for label, ids in judged.items() if ids or rng.random() < 0.5}


def _some(rng: np.random.Generator, ids: Sequence[str], share: float) -> list[str]:
    return [video_id for video_id in ids if rng.random() < share]


def scores(annotation: Annotation, rng: np.random.Generator, *, complete: bool = False) -> Table:
    """Scores of some queries and videos, at least one of each, of few or many different values.

    Args:
        complete: every query and video is there, and every pair has a score.
    """
    named = annotation.database
    if named is None:
        named = tuple(
            sorted({v for of in annotation.labels.values() for ids in of.values() for v in ids} | {"w1", "w2"})
        )
    keep = 1.0 if complete else float(rng.choice([1.0, 0.8, 0.4]))
    database = [v for v in rng.permutation(named).tolist() if rng.random() < keep] or [named[0]]
    queries = [q for q in rng.permutation(annotation.queries).tolist() if rng.random() < keep] or [
        annotation.queries[0]
    ]
    if rng.random() < 0.3:
        database = list(dict.fromkeys((*database, *annotation.queries)))
    if rng.random() < 0.3 and not complete:
        if annotation.database is not None:
            database.insert(int(rng.integers(len(database) + 1)), "stranger")
        queries.append("unknown query")
    num_levels = int(rng.choice([1, 2, 5, 30, 10_000]))
    levels = rng.integers(0, num_levels, (len(queries), len(database)))
    matrix = (levels / 7.0 - 1.0).astype(rng.choice([np.float32, np.float64]))
    if not complete and rng.random() < 0.3:
        matrix[rng.random(matrix.shape) < 0.2] = np.nan
    return Table(queries, database, matrix)
