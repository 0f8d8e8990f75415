"""Where the scores of an evaluation come from: a similarity file, or features and a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ...core.config import super_init
from ...core.engine.base import Engine
from ...core.errors import ReelkinError, UsageError
from ...search.embed import check_model
from ...train.checkpoint import LoadedModel, open_model
from ...train.data.sources import OpenedFeatures, open_features
from ...train.models.aggregators import MeanPooling, MeanPoolingConfig, out_dim
from .annotation import Annotation, Problem, ProblemLog
from .embedding_scores import MatrixScores, Metric, score_embeddings

log = logging.getLogger("reelkin.evaluate")

OF_MODELS = ("num_layers", "output_dim", "num_clusters")
"""Settings that say what a model must be like."""
REFUSED = {
    "random_sampling": "frames drawn anew each time would give other figures each time (--padding_size takes one part)",
    "use_comparator": "the weights of the published comparator network were never released",
}
"""Flags of the published command that cannot be followed, and why."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What is evaluated: similarities from a file, or videos compared by a model.

    Raises:
        UsageError: both or neither are given, or a value is out of range.
    """

    similarities: Path | None = None
    """File of similarities, larger is more similar: JSON {query: {video: similarity}}, or .npz with queries, database
    and similarities [Q, V]."""
    feature_path: Path | None = None
    """Instead of --similarities: frame features, a feature store or an HDF5 file with a dataset [T, D] per video."""
    model_path: Path | None = None
    """Model folder, run folder or published weights (.pth). Default: mean pooling, which needs none."""
    metric: Metric = "cosine"
    """Of features: cosine or euclidean (distance, negated) of video embeddings; chamfer of frame embeddings, from the
    query to the video, or symmetric-chamfer, the mean of both directions. euclidean-legacy is the published form of
    the distance, whose scale differs from video to video so that it ranks wrongly."""
    padding_size: int = 0
    """Of longer videos a part of this many frames is taken, always the same one (the published code draws it anew each
    time). 0: videos are whole, however long."""
    pca_components: int = 0
    """Dimensions that the features must have. 0: those they have."""
    num_layers: int = 0
    """Layers that the model must have. 0: those it has."""
    output_dim: int = 0
    """Dimensions that the model's embeddings must have. 0: those they have."""
    num_clusters: int = 0
    """Clusters that the model must have, if it has any. 0: those it has."""
    random_sampling: bool = False
    """Of the published command; refused: frames drawn anew each time give other figures each time."""
    use_comparator: bool = False
    """Of the published command; refused: the weights of its network were never released."""
    max_memory_gb: float = 8.0
    """Bound on what each rank holds of similarities, queries and a block of the database, in 10^9 bytes."""

    def __post_init__(self) -> None:
        super_init(ScoreSettings, self)
        if (self.similarities is None) == (self.feature_path is None):
            raise UsageError("give what to evaluate: either --similarities FILE, or --feature_path STORE_OR_HDF5")
        if self.similarities and (self.model_path or self.metric != "cosine"):
            given = "--model_path" if self.model_path else f"--metric {self.metric}"
            raise UsageError(f"{given} goes with --feature_path; --similarities holds finished similarities")
        for name, why in REFUSED.items():
            if getattr(self, name):
                raise UsageError(f"--{name}: {why}; leave it out")
        for name in ("padding_size", "pca_components", *OF_MODELS):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.max_memory_gb < math.inf:
            raise UsageError(f"--max-memory-gb is {self.max_memory_gb}; it must be a number above 0")

    @property
    def max_bytes(self) -> int:
        """The bound in bytes."""
        return int(self.max_memory_gb * 1e9)


@dataclass(frozen=True)
class Videos:
    """Features and a model, opened and checked, with the ids of a benchmark that they hold.

    Attributes:
        settings: what was asked for.
        source: the features.
        model: in eval mode; mean pooling where none was given.
        loaded: where it comes from; None for mean pooling.
        queries, database: ids as the features spell them.
        problems: videos of the annotation whose features cannot be used.
    """

    settings: ScoreSettings
    source: OpenedFeatures
    model: nn.Module
    loaded: LoadedModel | None
    queries: Sequence[str]
    database: Sequence[str]
    problems: tuple[Problem, ...] = ()

    @property
    def aggregator(self) -> str:
        """The model's name."""
        return str(self.model.name)

    def score(
        self, engine: Engine, *, model: nn.Module | None = None, metric: Metric | None = None
    ) -> MatrixScores | None:
        """Similarities on rank 0, None on the others; all ranks call it.

        Args:
            engine: its ranks share the work.
            model, metric: instead of those of the settings.

        Raises:
            UsageError, ReelkinError: as `score_embeddings`.
        """
        settings = self.settings
        scores = score_embeddings(
            self.source,
            self.model if model is None else model,
            self.queries,
            self.database,
            engine=engine,
            metric=metric or settings.metric,
            max_bytes=settings.max_bytes,
            max_frames=settings.padding_size,
        )
        if scores is None:
            return None
        facts = {**scores.facts, **_facts(settings, self.source, self.loaded)}
        return replace(scores, facts=facts, problems=(*self.problems, *scores.problems))


def open_videos(settings: ScoreSettings, annotation: Annotation) -> Videos:
    """The features and the model of the settings, for the videos of a benchmark.

    Raises:
        UsageError, ReelkinError: a file cannot be used, the model was trained on other features, or no query or no
            video of the annotation has features.
    """
    assert settings.feature_path is not None
    source = open_features(settings.feature_path, settings.pca_components or None)
    model, loaded = _open_model(settings, source)
    queries, database = _of_annotation(annotation, source)
    for what, ids in (("queries", queries), ("videos to search in", database)):
        if not ids:
            first = source.video_ids[0] if source.video_ids else "none"
            raise ReelkinError(
                f"none of the {what} of {annotation.dataset} has features in {settings.feature_path} (an id there: "
                f"{first!r}, in the annotation: {annotation.queries[0]!r})"
            )
    return Videos(settings, source, model, loaded, queries, database, _rejected(source, annotation))


def _open_model(settings: ScoreSettings, source: OpenedFeatures) -> tuple[nn.Module, LoadedModel | None]:
    """The model, checked against the features and the flags. Raises ReelkinError and UsageError."""
    if settings.model_path is None:
        if ignored := [f"--{name}" for name in OF_MODELS if getattr(settings, name)]:
            log.info("without effect on mean pooling: %s", ", ".join(ignored))
        return MeanPooling(MeanPoolingConfig(dim=source.dim)), None
    loaded = open_model(settings.model_path)
    check_model(loaded.module, source, loaded, source.info)
    config: Any = getattr(loaded.module, "config", None)
    has = {"num_layers": getattr(config, "num_layers", None), "num_clusters": getattr(config, "num_clusters", None)}
    has["output_dim"] = out_dim(loaded.module)
    if ignored := [f"--{name}" for name, value in has.items() if getattr(settings, name) and value is None]:
        log.info("without effect on the model %s: %s", loaded.name, ", ".join(ignored))
    for name, value in has.items():
        wanted = getattr(settings, name)
        if wanted and value is not None and wanted != value:
            raise UsageError(f"--{name} is {wanted}, and the model {settings.model_path} has {value}; leave it out")
    return loaded.module, loaded


def _of_annotation(annotation: Annotation, source: OpenedFeatures) -> tuple[list[str], list[str]]:
    """Ids of the features, as they are spelt there, that are queries, and that are ranked."""
    wanted_queries = set(annotation.queries)
    wanted = None if annotation.database is None else set(annotation.database)
    normal = [(video_id, annotation.normal_id(video_id)) for video_id in source.video_ids]
    queries = [video_id for video_id, name in normal if name in wanted_queries]
    return queries, [video_id for video_id, name in normal if wanted is None or name in wanted]


def _rejected(source: OpenedFeatures, annotation: Annotation) -> tuple[Problem, ...]:
    """Videos of the annotation that are known to the features, and cannot be used."""
    wanted, problems = set(annotation.ids), ProblemLog()
    for row in source.rejects:
        if annotation.database is None or annotation.normal_id(row.video_id) in wanted:
            problems.add(f"videos of the features that cannot be used ({row.reason})", row.video_id)
    return problems.problems


def _facts(settings: ScoreSettings, source: OpenedFeatures, loaded: LoadedModel | None) -> dict[str, Any]:
    """What was evaluated, as plain values for the results."""
    info = source.info or {}
    model = {"aggregator": "mean"} if loaded is None else {"aggregator": loaded.name, "sha256": loaded.sha256}
    encoder = info.get("encoder")
    if isinstance(encoder, dict):  # no path of the machine that made them
        encoder = {key: value for key, value in encoder.items() if key != "weights_path"}
    made = {"encoder": encoder, "pca": info.get("pca"), "sampling": info.get("sampling")}
    return {
        "metric": settings.metric,
        "padding_size": settings.padding_size,
        "features": {"sha256": source.digest(), "dim": source.dim, **made},
        "model": model,
    }
