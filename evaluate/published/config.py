"""The configuration of the command's other mode: a published benchmark, chosen with --dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ...core.config import super_init
from ...core.errors import UsageError
from ...core.files import refuse_overwriting
from .annotation import Annotation
from .benchmarks import DATASETS, read_annotation
from .pairs import split_labels
from .scores import ScoreSettings

EXAMPLE = (
    "evaluate/run.py --dataset FIVR-5K --feature_path store --model_path run/model --metric cosine --output results"
)
RESULTS = "results.json"
BESIDE = (
    *("report.html", "queries.csv", "scores.safetensors"),
    *("curves.svg", "curves.png", "figures.svg", "figures.png"),
)
"""What is written beside the results."""


@dataclass(frozen=True, kw_only=True)
class PublishedConfig(ScoreSettings):
    """Score a model, or a file of similarities, on a published benchmark; writes results.json, queries.csv,
    report.html, plots and the scores that were judged."""

    dataset: Annotated[str, tyro.conf.arg(aliases=("-d",))]
    """FIVR-5K, FIVR-200K, VCDB (with distractors), VCDB-CORE, CC_WEB_VIDEO, EVVE, SVD, or PAIRS: a list of your own."""
    annotations: str = ""
    """Ground truth instead of the one that comes with the program: a published file, for SVD also the published folder
    metadata, for PAIRS a CSV with the columns query, video and label. Of FIVR also: old (the default, on which
    published figures rest) or new."""
    protocol: Literal["corrected", "legacy"] = "corrected"
    """corrected measures what the figures' names say; legacy gives the figures that the published code prints, its
    faults included. The report and docs/evaluate.md say what differs."""
    bootstrap: int = 0
    """Resamples of the queries for a 95 % interval beside each figure; 1000 will do. 0: no intervals."""
    baselines: bool = False
    """Also score what needs no training: chance and, of features, mean pooling and the model without its training."""
    positive_labels: str = ""
    """Of PAIRS: comma-separated labels that mean positive; every other then means negative. Default: 1, true, yes,
    positive against 0, false, no, negative; -1, unclear and ignore leave the pair out."""
    judged_only: bool = False
    """Of PAIRS: rank for each query only the videos that it is judged against."""
    output: Path | None = None
    """A .json file or a folder (then FOLDER/results.json); the table, the report and the plots go beside it. Default:
    the figures are printed only."""
    scores_gb: float = 4.0
    """Largest file of scores that is written beside the results, in 10^9 bytes (4 bytes a query and video: 0.09 for
    FIVR-200K): evaluate/compare.py judges two systems on the videos that both have by it. 0: none."""
    shards: Path | None = None
    """Shards of the same videos: for the pictures in the report."""
    examples: int = 6
    """Queries shown in the report with what went wrong."""
    show: str = ""
    """Measure whose failures the report shows. Default: the first."""
    title: str = ""
    """Heading of the report. Default: the benchmark's name."""
    limit: int = 0
    """Evaluate only the first so many queries of those that are there; 0: all."""
    seed: int = 0
    """Of the bootstrap, and of the random rankings that are chance under legacy."""
    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """What connects the ranks; auto goes by the launcher."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where features are embedded and compared; auto takes one GPU a rank if there are any."""
    deadline: float = 300.0
    """Seconds that ranks wait for one another before the run is ended."""
    dry_run: bool = False
    """Print the configuration, the coverage and what it takes, and stop."""

    def __post_init__(self) -> None:
        super_init(PublishedConfig, self)
        if self.dataset.upper() not in DATASETS:
            raise UsageError(f"--dataset {self.dataset} is none of {', '.join(DATASETS)}")
        for name in ("bootstrap", "limit", "examples", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.scores_gb < math.inf:
            raise UsageError(f"--scores-gb is {self.scores_gb}; it must be a number of 0 or more")
        if self.shards and not self.output:
            raise UsageError(f"--shards {self.shards} is for the pictures in the report; say where to with --output")

    def annotation(self) -> Annotation:
        """The ground truth. Raises as `benchmarks.read_annotation`."""
        labels = split_labels(self.positive_labels)
        return read_annotation(self.dataset, self.annotations, positive_labels=labels, judged_only=self.judged_only)

    @property
    def results_path(self) -> Path | None:
        """Where results.json goes, whatever it is called."""
        if self.output is None or self.output.suffix == ".json":
            return self.output
        return self.output / RESULTS

    def beside(self, name: str) -> str:
        """What another file of the results is called: results of several systems can lie in one folder."""
        path = self.results_path
        return name if path is None or path.name == RESULTS else f"{path.stem}.{name}"

    def check_apart(self) -> None:
        """Refuse to write over what is read. Raises UsageError."""
        if (results := self.results_path) is not None:
            outputs = [results, *(results.with_name(self.beside(name)) for name in BESIDE)]
            flags = ("similarities", "annotations", "feature_path", "model_path", "shards")
            refuse_overwriting(outputs, {f"--{flag}": getattr(self, flag) for flag in flags})

    @property
    def without_effect(self) -> list[str]:
        """Flags that were given and change nothing."""
        if self.similarities is None:
            return []
        flags = ("padding_size", "pca_components", "num_layers", "output_dim", "num_clusters")
        return [f"--{name}" for name in flags if getattr(self, name)]
