#!/usr/bin/env python3
"""Retrieval on videos that training never saw, by what is varied of the recipe: losses, mining, aggregators and more.

    python benchmarks/train_quality.py --features CACHE/scenes/random CACHE/moments/learnt --runs CACHE/runs
    python benchmarks/train_quality.py ... --only loss mining            # kinds or names of quality_variants.py

The features come from train_features.py. Every variant is trained in every split with every seed; the queries of a
split are the edited copies of what it holds out, found among all videos (the protocol of evaluate/copies.py, strength
by strength). The table holds mean average precision at the video level, over splits, seeds and queries, by strength and
over all; the gain over mean pooling on the same queries with a 95 % interval over sources (bootstrap; a query's value
is its mean over seeds, and each source is held out in one split), the gain in each split, and the standard deviation
over seeds within a split; and the same at the frame level (chamfer). A variant that cannot be run is a row that says
why.

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
from reelkin.core.seeds import seed_of
from reelkin.core.tables import publish_csv, read_csv
from reelkin.evaluate.copies import copy_tasks
from reelkin.evaluate.ground_truth import Task
from reelkin.evaluate.methods import chance, from_embeddings, from_frames, pixels
from reelkin.evaluate.rankings import Method, evaluate_method
from reelkin.extract.store import FeatureStore
from reelkin.shards.reader import ShardSet


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        features: a set of train_features.py, of one encoder.
        split: its number.
        variant, seed, steps, threads: how it is trained.
        folder: where figures are kept.
    """

    features: Path
    split: int
    variant: Variant
    seed: int
    steps: int
    threads: int
    folder: Path

    @property
    def tables(self) -> Path:
        """The folder of the split's tables."""
        return self.features.parent / f"split-{self.split}"

    @property
    def store(self) -> Path:
        """The split's features."""
        return self.features / f"split-{self.split}" / "features"

    @property
    def result(self) -> Path:
        """Where its figures are kept."""
        name = re.sub(r"[^a-z0-9.]+", "-", f"{self.variant.what} {self.variant.name}")
        return self.folder / set_name(self.features) / name / f"split-{self.split}-seed-{self.seed}.json"

    @property
    def identity(self) -> dict[str, Any]:
        """What its figures depend on, the code left out."""
        sha256 = [block["sha256"] for block in FeatureStore.open(self.store).info["blocks"]]
        own = {"trained": self.variant.trained, "sources": self.variant.sources, "split": self.split}
        return {"flags": self.variant.words(self.steps), **own, "features": sha256}


def set_name(features: Path) -> str:
    """A set's name in the tables."""
    return f"{features.parent.name}-{features.name}"


def splits_of(features: Path) -> list[int]:
    """The numbers of a set's splits."""
    found = sorted(int(path.parent.name.removeprefix("split-")) for path in features.glob("split-*/features"))
    if not found:
        raise SystemExit(f"--features {features}: no split-K/features there; make them with train_features.py")
    return found


def tasks_of(features: Path, split: int, store: Any) -> list[Task]:
    """A task for each strength."""
    folder = features.parent
    groups = {row["video_id"]: row["group"] for row in read_csv(folder / "groups.csv")}
    held_out = set(read_ids(folder / f"split-{split}" / "held-out-groups.txt"))
    copies = read_csv(folder / "copies.csv")
    strengths = list(dict.fromkeys(row["strength"] for row in copies))
    return copy_tasks(copies, store.video_ids, groups=groups, strengths=strengths, test_groups=held_out)


def training_copies(run: Run, scratch: Path) -> Path:
    """The labels to train on: all of the split's, or those of its first sources in an order of chance."""
    path = run.tables / "training-copies.csv"
    if not run.variant.sources:
        return path
    rows = read_csv(path)
    source_of = {row["video_id"]: row["source"] for row in read_csv(run.features.parent / "groups.csv")}
    order = sorted({source_of[row["source_id"]] for row in rows}, key=lambda name: seed_of("order", run.split, name))
    if len(order) < run.variant.sources:
        raise ValueError(f"{run.variant.sources} sources to train on, of {len(order)} in {path}")
    chosen = set(order[: run.variant.sources])
    kept = [list(row.values()) for row in rows if source_of[row["source_id"]] in chosen]
    publish_csv(scratch / "training-copies.csv", list(rows[0]), kept)
    return scratch / "training-copies.csv"


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

    store = open_features(run.store)
    held_out = ("--validate-groups", run.tables / "held-out-groups.csv")
    with tempfile.TemporaryDirectory() as scratch, start("single") as engine:
        labels = ("--copies", training_copies(run, Path(scratch)))
        words = ["--features", run.store, *labels, *held_out, "--output", Path(scratch) / "run"]
        words += ["--seed", run.seed, "--threads", run.threads, "--validate-every", 10**6]
        words += ["--checkpoint-every", 10**6, *run.variant.words(run.steps)]
        config = parse(tca.TcaRecipe, [str(word) for word in words], prog="train/run.py", example="")
        trainer = tca.build(config, store, engine).trainer
        if run.variant.trained:
            trainer.train()
        return scores_of_model(trainer.task.model, store, tasks_of(run.features, run.split, store))


def baselines(features: Path, folder: Path) -> dict[str, dict[tuple[int, int], Scores]]:
    """Chance, pixels (kept in ``folder``: they decode every video), and mean pooling of the features, in each split."""
    from reelkin.train.models.aggregators import MeanPooling, MeanPoolingConfig

    kept = folder / set_name(features) / "pixels.json"
    shards = ShardSet.open(features.parent / "shards")
    found: dict[str, dict[tuple[int, int], Scores]] = {"chance": {}, "pixels": {}, "mean pooling": {}}
    thumbnails: Method | None = None
    seen = dict(read_json(kept)) if kept.exists() else {}
    for split in splits_of(features):
        store = FeatureStore.open(features / f"split-{split}" / "features")
        tasks = tasks_of(features, split, store)
        if str(split) not in seen:
            thumbnails = thumbnails or pixels(shards, list(store.video_ids))
            seen[str(split)] = scores_of(tasks, {"video": thumbnails})
        model = MeanPooling(MeanPoolingConfig(dim=store.dim))
        found["chance"][split, 0] = scores_of(tasks, {"video": chance()})
        found["pixels"][split, 0] = seen[str(split)]
        found["mean pooling"][split, 0] = scores_of_model(model, store, tasks)
    kept.parent.mkdir(parents=True, exist_ok=True)
    publish_json(kept, seen)
    return found


def carry_out_all(runs: Sequence[Run], jobs: int) -> dict[Run, dict[str, Any]]:
    """All runs, some at a time, in the order given."""
    found: dict[Run, dict[str, Any]] = {}
    began = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(carry_out, run): run for run in runs}
        for future in as_completed(waiting):
            run = waiting[future]
            found[run] = future.result()
            said = found[run].get("error") or f"{found[run]['seconds']} s"
            which = f"{run.variant.what}: {run.variant.name}, split {run.split}, seed {run.seed}"
            print(f"[{len(found)}/{len(runs)}, {time.monotonic() - began:.0f} s] {which}: {said}", flush=True)
    return {run: found[run] for run in runs}


def print_table(
    features: Path, folder: Path, found: Mapping[Run, dict[str, Any]], strengths: Sequence[str], against: str
) -> None:
    """All rows of one set, in the order of the variants; gains are over mean pooling, or a variant."""
    simple = baselines(features, folder)
    source = {row["video_id"]: row["source"] for row in read_csv(features.parent / "groups.csv")}
    source |= {row["copy_id"]: source[row["source_id"]] for row in read_csv(features.parent / "copies.csv")}
    strengths = strengths or list(simple["chance"][splits_of(features)[0], 0]["video"])
    seed_0 = {run: each["scores"] for run, each in found.items() if run.seed == 0 and "scores" in each}
    base = {(run.split, 0): each for run, each in seed_0.items() if run.variant.name == against}
    table = Table(base or simple["mean pooling"], against if base else "mean pooling", source, strengths)
    store = FeatureStore.open(features / f"split-{splits_of(features)[0]}" / "features")
    print(f"\n{set_name(features)}: {len(store.video_ids)} videos of {store.dim} dimensions, {table.size}\n")
    print(table.heading())
    for name, scores in simple.items():
        print(table.row("baseline", name, scores))
    for variant in dict.fromkeys(run.variant for run in found):
        results = {run: result for run, result in found.items() if run.variant == variant}
        if scored := {(run.split, run.seed): each["scores"] for run, each in results.items() if "scores" in each}:
            print(table.row(variant.what, variant.name, scored))
        for error in dict.fromkeys(result["error"] for result in results.values() if "error" in result):
            print(f"| {variant.what} | {variant.name} | failed: {error} |")


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, nargs="+", required=True, help="sets of train_features.py")
    parser.add_argument("--runs", type=Path, required=True, help="folder where figures are kept")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", nargs="*", default=[], help="kinds or names of variants; default: all")
    parser.add_argument("--strengths", nargs="*", default=[], help="of the edits that are reported; default: all")
    parser.add_argument("--against", default="", help="variant of --only (its seed 0) that gains are over")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="trainings at a time")
    parser.add_argument("--threads", type=int, default=0, help="of each training; 0: cores shared among the jobs")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print the tables."""
    options = arguments()
    chosen = [each for each in VARIANTS if not options.only or {each.what, each.name} & set(options.only)]
    if not chosen:
        raise SystemExit(f"--only {' '.join(options.only)}: no such variant in quality_variants.py")
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // options.jobs)
    for features in (each.resolve() for each in options.features):
        runs = [
            Run(features, split, variant, seed, options.steps, threads, options.runs)
            for variant in chosen
            for split in splits_of(features)
            for seed in range(options.seeds)
        ]
        if options.table:
            found = {run: dict(read_json(run.result)) for run in runs if run.result.exists()}
        else:
            found = carry_out_all(runs, options.jobs)
        print_table(features, options.runs, found, options.strengths, options.against)


if __name__ == "__main__":
    main()
