#!/usr/bin/env python3
"""All published benchmarks under both protocols, by the command, on scores whose right figures are known.

    python benchmarks/published_protocols.py
    python benchmarks/published_protocols.py --datasets EVVE SVD

The annotations are the shipped ones, in full size; PAIRS gets a list that is made of EVVE's. Scores are made and given
with --similarities:

* perfect: higher the closer a video's label says that it is; everything else is tied below. Corrected must be 1.
* partial: the same for 80 % of the queries and 40 % of the videos. Corrected must be 1 again, coverage says the rest.
* tied: one score for every pair. Corrected is the exact mean over all rankings, that is chance.
* random: scores without meaning, near that mean.
* noisy: the perfect ones and noise, to show what the protocols make of one and the same ranking.

It prints a table in Markdown and ends with 1 if a corrected figure that must be 1 is not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelkin.core.config import parse
from reelkin.core.files import read_json
from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.benchmarks import DATASETS, read_annotation
from reelkin.evaluate.published.config import PublishedConfig
from reelkin.evaluate.published.session import run

KINDS = ("perfect", "partial", "tied", "random", "noisy")
PROTOCOLS = ("corrected", "legacy")
CLOSENESS = {
    "FIVR-5K": {"ND": 3, "DS": 3, "CS": 2, "IS": 1},
    "FIVR-200K": {"ND": 3, "DS": 3, "CS": 2, "IS": 1},
    "CC_WEB_VIDEO": {"E": 3, "S": 2, "V": 2, "M": 2, "L": 2},
    "VCDB": {"copy": 3},
    "VCDB-CORE": {"copy": 3},
    "EVVE": {"event": 3},
    "SVD": {"1": 3},
    "PAIRS": {"positive": 3},
}
NOISE = 1.2
"""Standard deviation of the noise, in steps of closeness."""

Matrix = NDArray[np.float32]


def write_pairs(path: Path) -> None:
    """PAIRS' list: EVVE's events, every query with its positives, and videos of other events as negatives."""
    evve = read_annotation("EVVE")
    lines = ["query,video,label"]
    for query in evve.queries:
        right = evve.listed(query, ("event",))
        lines += [f"{query},{video_id},1" for video_id in sorted(right)]
        wrong = [video_id for video_id in evve.database or () if video_id not in right]
        lines += [f"{query},{video_id},0" for video_id in wrong[:100]]
    path.write_text("\n".join(lines) + "\n")


def ids_of(annotation: Annotation) -> tuple[list[str], list[str]]:
    """Queries and videos that get scores."""
    if annotation.database is not None:
        return list(annotation.queries), list(annotation.database)
    judged = {v for of_query in annotation.labels.values() for ids in of_query.values() for v in ids}
    return list(annotation.queries), sorted(judged)


def closeness(annotation: Annotation, queries: Sequence[str], database: Sequence[str]) -> Matrix:
    """[Q, V]: 3 for the closest, 0 for what no positive label names; a query is as close as can be to itself."""
    column_of = {video_id: column for column, video_id in enumerate(database)}
    close_QV = np.zeros((len(queries), len(database)), dtype=np.float32)
    for row, query in zip(close_QV, queries, strict=True):
        for label, value in sorted(CLOSENESS[annotation.dataset].items(), key=lambda item: item[1]):
            listed = annotation.labels.get(query, {}).get(label, ())
            row[[column_of[video_id] for video_id in listed if video_id in column_of]] = value
        if query in column_of:
            row[column_of[query]] = 4
    return close_QV


def made_scores(annotation: Annotation, kind: str, seed: int) -> tuple[list[str], list[str], Matrix]:
    """Queries, videos and scores of one kind."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    queries, database = ids_of(annotation)
    if kind == "partial":
        queries = [query for query in queries if rng.random() < 0.8]
        database = [video_id for video_id in database if rng.random() < 0.4]
    shape = (len(queries), len(database))
    if kind == "tied":
        return queries, database, np.full(shape, 0.5, dtype=np.float32)
    if kind == "random":
        return queries, database, rng.random(shape, dtype=np.float32)
    scores_QV = closeness(annotation, queries, database)
    if kind == "noisy":
        for row in scores_QV:
            row += np.float32(NOISE) * rng.standard_normal(len(row), dtype=np.float32)
    return queries, database, scores_QV


def figures_of(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """All figures by name; of events the least."""
    for name, figure in results["metrics"].items():
        if isinstance(figure, dict):
            yield "least event", min(value for value in figure.values() if value is not None)
        elif figure is not None:
            yield name, figure


def evaluate(words: Sequence[object], output: Path) -> dict[str, Any]:
    """Results of the command; what it prints is thrown away."""
    config = parse(PublishedConfig, [*map(str, words), "--output", str(output)], prog="evaluate/run.py", example="")
    with contextlib.redirect_stdout(io.StringIO()):
        run(config)
    return dict(read_json(output))


def measure(dataset: str, folder: Path, seed: int) -> bool:
    """Print a benchmark's rows; whether the corrected figures that must be 1 are."""
    words: list[object] = ["--dataset", dataset]
    if dataset == "PAIRS":
        write_pairs(folder / "pairs.csv")
        words += ["--annotations", folder / "pairs.csv"]
    annotation = read_annotation(dataset, str(folder / "pairs.csv") if dataset == "PAIRS" else "")
    found: dict[tuple[str, str], dict[str, float]] = {}
    covered: dict[str, str] = {}
    began = time.monotonic()
    for kind in KINDS:
        queries, database, scores_QV = made_scores(annotation, kind, seed)
        path = folder / "similarities.npz"
        np.savez(path, queries=np.array(queries), database=np.array(database), similarities=scores_QV)
        del scores_QV
        for protocol in PROTOCOLS:
            results = evaluate(
                [*words, "--similarities", path, "--protocol", protocol, "--max-memory-gb", 8], folder / "results.json"
            )
            found[kind, protocol] = dict(figures_of(results))
            covered[kind] = " x ".join(f"{counts[0]:,}" for counts in results["coverage"].values())
    for name in found["perfect", "corrected"]:
        cells = [f"{found[kind, protocol][name]:.4f}" for kind in KINDS for protocol in PROTOCOLS]
        print(f"| {dataset} | {name} | {' | '.join(cells)} |", flush=True)
    seconds = time.monotonic() - began
    print(f"  {covered['perfect']}; partial {covered['partial']}; {seconds:.0f} s", file=sys.stderr, flush=True)
    return all(
        abs(figure - 1) < 1e-9 for kind in ("perfect", "partial") for figure in found[kind, "corrected"].values()
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="*", default=DATASETS, choices=DATASETS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"| benchmark | figure | {' | '.join(f'{kind}, {p}' for kind in KINDS for p in PROTOCOLS)} |")
    print(f"|{'---|' * (2 + len(KINDS) * len(PROTOCOLS))}")
    good = True
    for dataset in options.datasets:
        with tempfile.TemporaryDirectory() as folder:
            good &= measure(dataset, Path(folder), options.seed)
    if not good:
        print("a perfect ranking does not score 1 under corrected", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
