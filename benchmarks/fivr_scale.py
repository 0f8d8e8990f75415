#!/usr/bin/env python3
"""FIVR-200K in full size: similarities, ranking and all six figures, ours against the published way, in turns.

    python benchmarks/fivr_scale.py
    python benchmarks/fivr_scale.py --videos 20000 --turns 1      # a look
    python benchmarks/fivr_scale.py --command      # evaluate/run.py on a feature store of the same, a frame a video
    python benchmarks/fivr_scale.py --compare      # evaluate/compare.py of two systems that lack other parts of it

The annotation is the shipped one: 100 queries, 225,960 videos. Embeddings (1024 dimensions, float32) are made, and lie
nearer to a query the more its labels say that they show the same; they are read from a file that is mapped into memory.

Ours: a process of its own for each turn and protocol, which reads the annotation, compares all videos, and makes
DSVR, CSVR, ISVR, DSVD, CSVD and ISVD. Seconds are those from the start of its work (imports are printed beside) to the
figures, by the clock and of the processor (all threads together; other work on the machine disturbs those less). Memory
is the highest resident set (VmHWM), pages of the mapped file included.

The published way: for each video a loop over the queries, 1 - scipy's cosine distance of one pair at a time, into a
dictionary of dictionaries; for each of the three tasks and each query the dictionary sorted, and a walk down the
ranking; for the three micro average precisions (those of S2VS: TCA has none) all pairs in one list, sorted and walked.
A part is timed, and its time taken in proportion to pairs; the growth of sorting beyond that is not counted.
"Plain" is the same with a dot product of unit vectors in place of scipy's function. The average precisions of the
queries that it did must be ours under the legacy protocol.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
"""Seconds: by the clock, of the processor."""
TASKS = {"DSV": ("ND", "DS"), "CSV": ("ND", "DS", "CS"), "ISV": ("ND", "DS", "CS", "IS")}
NEARNESS = {"ND": 0.3, "DS": 0.15, "CS": 0.12, "IS": 0.08}
"""Weight of a query's direction in a video of its list; the rest is noise."""
QUERIES_RANKED = 3
"""By the published way in a turn."""
PAIRS_COMPARED = 20_000


def make_embeddings(path: Path, num_videos: int, dim: int, seed: int) -> None:
    """Write float32 [V, D]: noise of about unit length, and of listed videos the queries' directions."""
    from reelkin.evaluate.published.benchmarks import read_annotation

    annotation = read_annotation("FIVR-200K")
    assert annotation.database is not None
    ids = database_of(annotation, num_videos)
    column_of = {video_id: column for column, video_id in enumerate(ids)}
    made_VD = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(ids), dim))
    rng = np.random.default_rng(seed)
    for begin in range(0, len(ids), 8192):
        part = made_VD[begin : begin + 8192]
        rng.standard_normal(out=(block := np.empty(part.shape, np.float32)), dtype=np.float32)
        part[:] = block / np.float32(dim**0.5)
    query_QD = made_VD[[column_of[query] for query in annotation.queries]].copy()
    for query, direction in zip(annotation.queries, query_QD, strict=True):
        for label, weight in NEARNESS.items():
            listed = annotation.labels[query].get(label, ())
            columns = [column_of[v] for v in listed if v in column_of and v not in annotation.queries]
            made_VD[columns] += weight * direction
    made_VD.flush()


def database_of(annotation: Any, num_videos: int) -> list[str]:
    """The first videos of the database, and all queries."""
    return list(dict.fromkeys((*annotation.queries, *annotation.database)))[:num_videos]


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Run by the child process: everything from the annotation to the figures."""
    began = time.perf_counter()
    import torch

    from reelkin.evaluate.published.benchmarks import read_annotation
    from reelkin.evaluate.published.embedding_scores import MatrixScores
    from reelkin.evaluate.published.scoring import evaluate_scores
    from reelkin.search.similarity import cosine

    torch.set_num_threads(options.threads)
    marks = [time.perf_counter()]
    processor = time.process_time()
    annotation = read_annotation("FIVR-200K")
    ids = database_of(annotation, options.videos)
    marks.append(time.perf_counter())
    embedding_VD = np.load(options.embeddings, mmap_mode="r")
    column_of = {video_id: column for column, video_id in enumerate(ids)}
    query_QD = embedding_VD[[column_of[query] for query in annotation.queries]]
    matrix_QV = cosine(query_QD, embedding_VD)
    marks.append(time.perf_counter())
    scores = MatrixScores(annotation.queries, ids, matrix_QV)
    outcome = evaluate_scores(annotation, scores, protocol=options.protocol, num_resamples=options.bootstrap)
    marks.append(time.perf_counter())
    annotated, compared, figured = np.diff(marks).tolist()
    return {
        "imports": marks[0] - began,
        "annotation": annotated,
        "similarities": compared,
        "figures": figured,
        "seconds": marks[-1] - marks[0],
        "processor": time.process_time() - processor,
        "peak": peak_bytes(),
        "metrics": dict(outcome.figures),
        "queries": outcome.as_json()["queries"],
    }


def peak_bytes() -> int:
    """Highest resident set of this process since it began its program; ru_maxrss would hold the parent's too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def ours_in_child(options: argparse.Namespace, embeddings: Path, protocol: str) -> dict[str, Any]:
    """One turn of ours."""
    command = [sys.executable, __file__, "--embeddings", str(embeddings), "--protocol", protocol]
    command += ["--videos", str(options.videos), "--threads", str(options.threads)]
    command += ["--bootstrap", str(options.bootstrap)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def now() -> Times:
    """Seconds by the clock and of this process's processor time."""
    return np.array([time.perf_counter(), time.process_time()])


class Published:
    """The published way, on parts; see the top."""

    def __init__(self, embeddings: Path, num_videos: int) -> None:
        from reelkin.evaluate.published.benchmarks import read_annotation
        from reelkin.search.similarity import cosine

        self.annotation = read_annotation("FIVR-200K")
        self.ids = database_of(self.annotation, num_videos)
        self.embedding_VD = np.load(embeddings, mmap_mode="r")
        self.all_db = set(self.ids)
        column_of = {video_id: column for column, video_id in enumerate(self.ids)}
        self.query_of = {q: np.array(self.embedding_VD[column_of[q]]) for q in self.annotation.queries}
        self.matrix_QV = cosine(np.stack(list(self.query_of.values())), self.embedding_VD)
        self.relevant = {
            task: {
                query: {v for label in labels for v in self.annotation.labels[query].get(label, ())}
                for query in self.annotation.queries
            }
            for task, labels in TASKS.items()
        }

    def compare(self, *, plain: bool) -> Times:
        """All pairs: a part is made, videos outside and queries inside."""
        from scipy.spatial.distance import cosine as cosine_distance

        num_queries = len(self.query_of)
        videos = self.ids[: max(1, PAIRS_COMPARED // num_queries)]
        rows = [np.array(row) for row in self.embedding_VD[: len(videos)]]
        if plain:
            unit = {query: vector / np.linalg.norm(vector) for query, vector in self.query_of.items()}
        similarities: dict[str, dict[str, float]] = {query: {} for query in self.query_of}
        began = now()
        for video_id, row in zip(videos, rows, strict=True):
            if plain:
                row = row / np.linalg.norm(row)
                for query, vector in unit.items():
                    similarities[query][video_id] = float(vector.dot(row))
            else:
                for query, vector in self.query_of.items():
                    similarities[query][video_id] = float(1 - cosine_distance(vector, row))
        return (now() - began) * (len(self.ids) / len(videos))

    def rank(self, turn: int) -> tuple[Times, Times, dict[str, dict[str, float]]]:
        """Times of the three mean and of the three micro average precisions of all queries, and each AP found."""
        queries = self.annotation.queries[turn * QUERIES_RANKED : (turn + 1) * QUERIES_RANKED]
        rows = self.matrix_QV[turn * QUERIES_RANKED : (turn + 1) * QUERIES_RANKED]  # ours, to the last bit
        similarities = {q: dict(zip(self.ids, row.tolist(), strict=True)) for q, row in zip(queries, rows, strict=True)}
        share = len(self.annotation.queries) / len(queries)
        began = now()
        found = {
            f"{task}R": {query: self.average_precision(similarities[query], query, task) for query in queries}
            for task in TASKS
        }
        retrieval = (now() - began) * share
        began = now()
        for task in TASKS:
            self.micro_average_precision(similarities, task)
        return retrieval, (now() - began) * share, found

    def average_precision(self, similarities: dict[str, float], query: str, task: str) -> float:
        """Of one query and task."""
        relevant = self.relevant[task][query] & self.all_db
        place, hits, total = 0, 0, 0.0
        for video_id, _ in sorted(similarities.items(), key=lambda item: item[1], reverse=True):
            if video_id == query or video_id not in self.all_db:
                continue
            place += 1
            if video_id in relevant:
                hits += 1
                total += hits / place
        return total / len(relevant)

    def micro_average_precision(self, similarities: dict[str, dict[str, float]], task: str) -> float:
        """Of all pairs together."""
        pairs: list[tuple[float, bool]] = []
        number = 0
        for query, row in similarities.items():
            relevant = (self.relevant[task][query] & self.all_db) - {query}
            number += len(relevant)
            pairs += [(score, video_id in relevant) for video_id, score in row.items() if video_id != query]
        pairs.sort(reverse=True)
        hits, total = 0, 0.0
        for place, (_, hit) in enumerate(pairs, 1):
            if hit:
                hits += 1
                total += hits / place
        return total / number


def check_equal(found: dict[str, dict[str, float]], legacy: dict[str, Any]) -> float:
    """Largest difference of an average precision from ours."""
    return max(
        abs(ap - legacy["queries"][measure][query]) for measure, aps in found.items() for query, ap in aps.items()
    )


def show(protocol: str, result: dict[str, Any]) -> None:
    """Print ours."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    parts = ", ".join(f"{name} {result[name]:.2f}" for name in ("annotation", "similarities", "figures"))
    print(
        f"ours, {protocol}: {result['seconds']:.2f} s ({parts}; imports before that {result['imports']:.1f}), of the "
        f"processor {result['processor']:.2f} s, peak {result['peak'] / 1e9:.2f} GB; {figures}",
        flush=True,
    )


def measure_command(options: argparse.Namespace, embeddings: Path, folder: Path) -> None:
    """Print what the command takes, from its start to its end, on a store in place of the mapped file."""
    from measure_command import measure

    from reelkin.evaluate.published.benchmarks import read_annotation
    from reelkin.extract.store import write_store

    embedding_VD = np.load(embeddings, mmap_mode="r")
    ids = database_of(read_annotation("FIVR-200K"), options.videos)
    times = np.zeros(1)
    write_store(folder / "store", ((v, (row[None], times)) for v, row in zip(ids, embedding_VD, strict=True)), {})
    script = Path(__file__).resolve().parents[1] / "evaluate/run.py"
    command = [sys.executable, str(script), "--dataset", "FIVR-200K", "--feature_path", str(folder / "store")]
    for _ in range(options.turns):
        print(
            json.dumps(measure([*command, "--max-memory-gb", "1", "--output", str(folder / "results.json")])),
            flush=True,
        )


def measure_comparison(options: argparse.Namespace, embeddings: Path, folder: Path) -> None:
    """Print what evaluate/compare.py finds and takes; b compares 15 of 16 dimensions; each lacks some ids."""
    from measure_command import measure

    from reelkin.core.files import publish_json
    from reelkin.evaluate.published.benchmarks import read_annotation
    from reelkin.evaluate.published.embedding_scores import DECIMALS, MatrixScores
    from reelkin.evaluate.published.publishing import Evaluation, System
    from reelkin.evaluate.published.saved_scores import write_scores
    from reelkin.evaluate.published.scoring import evaluate_scores
    from reelkin.search.similarity import cosine

    annotation = read_annotation("FIVR-200K")
    ids = database_of(annotation, options.videos)
    embedding_VD = np.load(embeddings, mmap_mode="r")
    paths = []
    for name, dim, first_query, first_video in (("a", options.dim, 0, 1000), ("b", options.dim * 15 // 16, 3, 20_000)):
        queries = annotation.queries[first_query:]
        rows = [ids.index(query) for query in queries]
        matrix_QV = cosine(embedding_VD[rows, :dim], embedding_VD[first_video:, :dim])
        scores = MatrixScores(queries, ids[first_video:], np.round(matrix_QV, DECIMALS, out=matrix_QV))
        saved = write_scores(folder / f"{name}.safetensors", annotation, scores, 10**10, ordered=False)
        assert saved is not None
        print(f"{name}: {saved.bytes:,} bytes of scores", flush=True)
        system = System(name, "", evaluate_scores(annotation, scores))
        paths.append(folder / f"{name}.json")
        publish_json(paths[-1], Evaluation(system, scores=saved).as_json())
    script = Path(__file__).resolve().parents[1] / "evaluate/compare.py"
    for _ in range(options.turns):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        measured = measure([sys.executable, str(script), *map(str, paths)])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps({**measured, "processor_seconds": round(processor, 1)}), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=225_960)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=0, help="resamples of ours")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of ours")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--command", action="store_true", help="measure evaluate/run.py instead")
    parser.add_argument("--compare", action="store_true", help="measure evaluate/compare.py instead")
    parser.add_argument("--embeddings", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--protocol", default="corrected", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.embeddings:
        print(json.dumps(ours(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        embeddings = Path(folder) / "embeddings.npy"
        make_embeddings(embeddings, options.videos, options.dim, seed=0)
        if options.command:
            measure_command(options, embeddings, Path(folder))
            return
        if options.compare:
            measure_comparison(options, embeddings, Path(folder))
            return
        published = None if options.only_ours else Published(embeddings, options.videos)
        for turn in range(options.turns):
            results = {name: ours_in_child(options, embeddings, name) for name in ("corrected", "legacy")}
            for name, result in results.items():
                show(name, result)
            if published is None:
                continue
            retrieval, detection, found = published.rank(turn)
            for name, plain in (("published", False), ("plain", True)):
                pairs = published.compare(plain=plain)
                total = pairs + retrieval + detection
                seconds, processor = total
                ratio = total / np.array([results["corrected"]["seconds"], results["corrected"]["processor"]])
                print(
                    f"{name} way, from a part: {seconds:.0f} s (similarities {pairs[0]:.0f}, mAP {retrieval[0]:.0f}, "
                    f"micro AP {detection[0]:.0f}), of the processor {processor:.0f} s: {ratio[0]:.0f} times ours, "
                    f"by the processor {ratio[1]:.0f}",
                    flush=True,
                )
            print(
                f"largest difference of an average precision: {check_equal(found, results['legacy']):.1e}", flush=True
            )


if __name__ == "__main__":
    main()
