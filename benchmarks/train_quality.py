#!/usr/bin/env python3
"""Retrieval on videos that training never saw, by what is varied of the recipe: losses, mining, aggregators and more.

    python benchmarks/train_quality.py --features CACHE/scenes/random CACHE/clips/learnt --runs CACHE/runs
    python benchmarks/train_quality.py ... --only loss mining            # kinds or names of quality_variants.py

The features come from train_features.py. Every variant is trained with every seed, on one split; its queries are the
edited copies of the held-out half, found among all videos (the protocol of evaluate/copies.py, strength by strength).
The table holds mean average precision at the video level, over seeds and queries, by strength and over all queries; the
gain over mean pooling on the same queries with a 95 % interval over sources (bootstrap; a query's value is its mean
over seeds) and one over seeds (Student's t of the seeds' means); and the frame level (chamfer). A variant that cannot
be run is a row that says why.

Results are kept in the folder of --runs, and a run that is there is not made again: give another folder when the code
has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality_table import Scores, Table
from quality_variants import VARIANTS, Variant

from reelkin.core.config import parse
from reelkin.core.files import publish_json, read_json
from reelkin.core.ids import read_ids
from reelkin.core.tables import read_csv
from reelkin.evaluate.copies import copy_tasks
from reelkin.evaluate.ground_truth import Task
from reelkin.evaluate.methods import chance, from_embeddings, from_frames
from reelkin.evaluate.rankings import Method, evaluate_method
from reelkin.extract.store import FeatureStore


@dataclass(frozen=True)
class Run:
    """One training."""

    features: Path
    variant: Variant
    seed: int
    steps: int
    threads: int
    folder: Path

    @property
    def result(self) -> Path:
        """Where its figures are kept."""
        name = re.sub(r"[^a-z0-9.]+", "-", f"{self.variant.what} {self.variant.name}")
        return self.folder / set_name(self.features) / name / f"seed-{self.seed}.json"

    @property
    def identity(self) -> dict[str, Any]:
        """What its figures depend on, the code left out."""
        sha256 = [block["sha256"] for block in FeatureStore.open(self.features / "features").info["blocks"]]
        return {"flags": self.variant.words(self.steps), "trained": self.variant.trained, "features": sha256}


def set_name(features: Path) -> str:
    """A set's name in the tables."""
    return f"{features.parent.name}-{features.name}"


def tasks_of(features: Path, store: Any) -> list[Task]:
    """A task for each strength."""
    folder = features.parent
    groups = {row["video_id"]: row["group"] for row in read_csv(folder / "groups.csv")}
    held_out = set(read_ids(folder / "held-out-groups.txt"))
    return copy_tasks(read_csv(folder / "copies.csv"), store.video_ids, groups=groups, test_groups=held_out)


def scores_of(tasks: Sequence[Task], levels: Mapping[str, Method]) -> Scores:
    """Average precision of every query that has a positive."""
    return {level: {task.name: evaluate_method(task, method).aps for task in tasks} for level, method in levels.items()}


def scores_of_model(model: Any, store: Any, tasks: Sequence[Task]) -> Scores:
    """As `scores_of`, of a model at both levels."""
    from reelkin.train.embed import embed_frames, embed_videos

    ids = sorted({video_id for task in tasks for video_id in (*task.queries, *task.database)})
    levels = {
        "video": from_embeddings("video", "", ids, embed_videos(model, store, ids)),
        "frame": from_frames("frame", "", ids, embed_frames(model, store, ids), symmetric=False),
    }
    return scores_of(tasks, levels)


def carry_out(run: Run) -> dict[str, Any]:
    """Train and measure; a refusal or a failure becomes the text "error"."""
    if run.result.exists() and read_json(run.result)["identity"] == run.identity:
        return dict(read_json(run.result))
    said = io.StringIO()
    began = time.monotonic()
    try:
        with contextlib.redirect_stderr(said):
            scores = train_and_score(run)
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit):
            return {"error": f"{type(error).__name__}: {error}"}
        text, _, _ = said.getvalue().partition("For full helptext")
        lines = (line.strip(" │╭╰─╮╯|-") for line in text.splitlines())  # of a box
        return {"error": " ".join(filter(None, lines))}
    found = {"identity": run.identity, "scores": scores, "seconds": round(time.monotonic() - began, 1)}
    run.result.parent.mkdir(parents=True, exist_ok=True)
    publish_json(run.result, found)
    return found


def train_and_score(run: Run) -> Scores:
    """The recipe as train/run.py puts it together, in this process."""
    from reelkin.core.engine import start
    from reelkin.train.data.sources import open_features
    from reelkin.train.recipes import tca

    store = open_features(run.features / "features")
    labels = ("--copies", run.features.parent / "training-copies.csv")
    held_out = ("--validate-groups", run.features.parent / "held-out-groups.csv")
    with tempfile.TemporaryDirectory() as scratch, start("single") as engine:
        words = ["--features", run.features / "features", *labels, *held_out, "--output", Path(scratch) / "run"]
        words += ["--seed", run.seed, "--threads", run.threads, "--validate-every", 10**6]
        words += ["--checkpoint-every", 10**6, *run.variant.words(run.steps)]
        config = parse(tca.TcaRecipe, [str(word) for word in words], prog="train/run.py", example="")
        trainer = tca.build(config, store, engine).trainer
        if run.variant.trained:
            trainer.train()
        return scores_of_model(trainer.task.model, store, tasks_of(run.features, store))


def baselines(features: Path) -> dict[str, Scores]:
    """Chance, and mean pooling of the features themselves."""
    from reelkin.train.models.aggregators import MeanPooling, MeanPoolingConfig

    store = FeatureStore.open(features / "features")
    tasks = tasks_of(features, store)
    mean = scores_of_model(MeanPooling(MeanPoolingConfig(dim=store.dim)), store, tasks)
    return {"chance": scores_of(tasks, {"video": chance(), "frame": chance()}), "mean pooling": mean}


def carry_out_all(runs: Mapping[tuple[Variant, int], Run], jobs: int) -> dict[tuple[Variant, int], dict[str, Any]]:
    """All runs, some at a time, in the order given."""
    found: dict[tuple[Variant, int], dict[str, Any]] = {}
    began = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(carry_out, run): key for key, run in runs.items()}
        for future in as_completed(waiting):
            variant, seed = waiting[future]
            found[variant, seed] = future.result()
            said = found[variant, seed].get("error") or f"{found[variant, seed]['seconds']} s"
            passed = time.monotonic() - began
            print(
                f"[{len(found)}/{len(runs)}, {passed:.0f} s] {variant.what}: {variant.name}, seed {seed}: {said}",
                flush=True,
            )
    return {key: found[key] for key in runs}


def print_table(features: Path, found: Mapping[tuple[Variant, int], dict[str, Any]]) -> None:
    """All rows of one set, in the order of the variants."""
    simple = baselines(features)
    store = FeatureStore.open(features / "features")
    tasks = tasks_of(features, store)
    table = Table(simple["mean pooling"], {query: task.groups[query] for task in tasks for query in task.queries})
    print(f"\n{set_name(features)}: {len(store.video_ids)} videos of {store.dim} dimensions, {table.size}\n")
    print(table.heading())
    for name, scores in simple.items():
        print(table.row("baseline", name, [scores]))
    for variant in dict.fromkeys(variant for variant, _ in found):
        results = [result for (each, _), result in found.items() if each == variant]
        if seeds := [result["scores"] for result in results if "scores" in result]:
            print(table.row(variant.what, variant.name, seeds))
        for error in dict.fromkeys(result["error"] for result in results if "error" in result):
            print(f"| {variant.what} | {variant.name} | failed: {error} |")


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, nargs="+", required=True, help="sets of train_features.py")
    parser.add_argument("--runs", type=Path, required=True, help="folder where figures are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=[], help="kinds or names of variants; default: all")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="trainings at a time")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    chosen = [each for each in VARIANTS if not options.only or {each.what, each.name} & set(options.only)]
    if not chosen:
        raise SystemExit(f"--only {' '.join(options.only)}: no such variant in quality_variants.py")
    threads = max(1, len(os.sched_getaffinity(0)) // options.jobs)
    for features in options.features:
        runs = {
            (variant, seed): Run(features.resolve(), variant, seed, options.steps, threads, options.runs)
            for variant in chosen
            for seed in range(options.seeds)
        }
        if options.table:
            found = {key: dict(read_json(run.result)) for key, run in runs.items() if run.result.exists()}
        else:
            found = carry_out_all(runs, options.jobs)
        print_table(features.resolve(), found)


if __name__ == "__main__":
    main()
