"""Whole evaluations: from a store, a model and a ground truth to results, ready to be published."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.progress import Progress
from ..train.data.sources import FeatureSource
from .ground_truth import Task
from .methods import build_methods, decoded_clips
from .rankings import evaluate_task
from .reporting.tasks import write_report
from .results import Results, publish

if TYPE_CHECKING:
    from ..extract.store import FeatureStore
    from ..shards.reader import ShardSet

STRIP_SHORT_SIDE = 96
"""Pixels of the frames shown in reports."""


def default_methods(model_name: str | None, shards: bool) -> list[str]:
    """Everything that the inputs allow: the trivial solutions, then the model's levels."""
    trivial = ["chance", *(["pixels"] if shards else []), "mean-pool", "mean-pool-frame"]
    if not model_name:
        return trivial
    return [
        *trivial,
        *(["untrained-video"] if model_name != "mean" else []),
        f"{model_name}-video",
        f"{model_name}-frame",
    ]


def evaluate_tasks(
    tasks: Sequence[Task],
    source: FeatureSource,
    *,
    title: str,
    methods: Sequence[str] | None = None,
    model: nn.Module | None = None,
    model_name: str = "tca",
    shards: ShardSet | None = None,
    max_memory: float = 8e9,
    device: torch.device | str = "cpu",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Results:
    """Score tasks under methods by name; see `methods.build_methods` for the names and what they need.

    Raises:
        UsageError, ReelkinError: as `methods.build_methods` and `rankings.evaluate_task`.
    """
    names = (
        default_methods(model_name if model is not None else None, shards is not None) if methods is None else methods
    )
    ids = sorted({video_id for task in tasks for video_id in (*task.queries, *task.database)})
    built = build_methods(
        names,
        source,
        ids,
        model=model,
        model_name=model_name,
        shards=shards,
        max_memory=max_memory,
        device=device,
    )
    results = []
    with Progress(len(tasks), "tasks", "scoring") as progress:
        for task in tasks:
            results.append(evaluate_task(task, built, seed=seed))
            progress.advance()
    return Results(title, results, dict(config or {}), dict(inputs or {}), seed)


def publish_evaluation(
    results: Results,
    output: str | Path,
    *,
    shards: ShardSet | None = None,
    show: str | None = None,
    num_examples: int = 8,
) -> None:
    """Write report.html, queries.csv and, last, results.json into ``output``."""
    strips = None if shards is None else functools.lru_cache(maxsize=None)(functools.partial(frame_strip, shards))
    write_report(results, Path(output) / "report.html", strips=strips, show=show, num_examples=num_examples)
    publish(results, output)


def frame_strip(shards: ShardSet, video_id: str) -> list[NDArray[np.uint8]]:
    """Frames of a video at 1 per second, uint8 [H, W, 3]; empty if it is not in the shards or cannot be decoded."""
    return [frame for clip in decoded_clips(shards, video_id, short_side=STRIP_SHORT_SIDE) for frame in clip]


def describe_store(store: FeatureStore) -> dict[str, Any]:
    """What made the features, for results: encoder, PCA, sampling; no path of the machine that made them."""
    kept = {key: store.info.get(key) for key in ("dim", "encoder", "pca", "sampling", "decoder", "shards_sha256")}
    encoder = kept["encoder"]
    if isinstance(encoder, dict):
        kept["encoder"] = {key: value for key, value in encoder.items() if key != "weights_path"}
    return kept
