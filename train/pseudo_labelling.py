"""Settings of ``train/pseudo_labels.py``, and what it does."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.config import launched_rank
from ..core.errors import ExitCode, ReelkinError, UsageError
from ..core.logs import setup_logging
from ..core.neighbours import first_neighbours
from ..core.tables import publish_csv
from .data.clusters import first_neighbour_clusters
from .data.sources import open_features, rejected
from .embed import mean_pooled

log = logging.getLogger("reelkin.train")

LARGE_SHARE = 0.1
"""A cluster that holds more of the videos than this is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig:
    """Group videos without labels: each with its nearest neighbour, if that is similar enough.

    Writes a CSV with the columns video_id,group, an empty group for a video alone; give it to train/run.py as
    --pseudo-labels. Similarity is the cosine of the means of the videos' frame features. Neighbours are exact; memory
    is a vector a video and one block of similarities.
    """

    features: Path
    """Feature store made by extract/run.py, or an HDF5 file with a dataset per video id."""
    output: Path
    """CSV to write."""
    min_similarity: float = 0.6
    """Cosine below which a nearest neighbour shows something else, -1 to 1. What is right depends on the features: the
    command prints how similar nearest neighbours are, and how large the clusters became. With whitened features of 48
    procedural scenes in seven versions each, 0.6 found 42 % of the pairs and none that was wrong; 0.4 found 58 %, and
    13 % of what it found was wrong."""
    rounds: int = 1
    """How often clusters are merged by the same rule; more than 1 finds more pairs, and more wrong ones."""

    def __post_init__(self) -> None:
        if not -1 <= self.min_similarity <= 1:
            raise UsageError(f"--min-similarity is {self.min_similarity}; it is a cosine, -1 to 1")
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}; it must be at least 1")


def make_pseudo_labels(config: PseudoLabelConfig) -> int:
    """Cluster and write; returns the exit code. Of several ranks, the first does it all.

    Raises:
        UsageError, ReelkinError: there are no features, or no two videos are similar enough.
    """
    setup_logging(launched_rank())
    if launched_rank() != 0:
        return int(ExitCode.OK)
    source = open_features(config.features)
    for finding in rejected(source):
        log.warning("%s", finding)
    if len(source.video_ids) < 2:
        raise UsageError(f"{config.features} holds {len(source.video_ids)} videos; clusters need at least 2")
    rows_VD = mean_pooled(source, source.video_ids)
    quantiles = np.quantile(first_neighbours(rows_VD)[1], (0.1, 0.5, 0.9))
    log.info("similarity of nearest neighbours: a tenth below %.2f, half below %.2f, a tenth above %.2f", *quantiles)
    labels_V = first_neighbour_clusters(rows_VD, config.min_similarity, config.rounds)
    sizes_C = np.bincount(labels_V)
    if sizes_C.max() < 2:
        raise ReelkinError(
            f"no two of the {len(labels_V)} videos have a similarity of --min-similarity {config.min_similarity:g} or "
            "more, so there is no cluster; lower it"
        )
    rows = zip(source.video_ids, labels_V.tolist(), strict=True)
    clusters = ((video_id, f"cluster-{label}" if sizes_C[label] > 1 else "") for video_id, label in rows)
    publish_csv(config.output, ("video_id", "group"), clusters)
    together = sizes_C[sizes_C > 1]
    log.info(
        "%s: %d of %d videos in %d clusters, the largest of %d",
        config.output, together.sum(), len(labels_V), len(together), together.max(),
    )  # fmt: skip
    if together.max() > max(10, LARGE_SHARE * len(labels_V)):
        log.warning("the largest cluster holds %d videos; a higher --min-similarity parts them", together.max())
    return int(ExitCode.OK)
