"""Which of the command's two modes is meant, and how each runs: any ground truth, or a published benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.config import launched_rank
from ..core.errors import ExitCode
from ..core.logs import setup_logging
from .config import EvaluateConfig, dry_run_text
from .config import run as evaluate
from .published import config as published_config
from .published import session as published_session
from .results import text_table

EXAMPLE = "evaluate/run.py --ground-truth edits.csv --features store --model run/model --shards shards --output results"
DATASET_FLAGS = ("--dataset", "-d")


@dataclass(frozen=True)
class Mode:
    """A configuration class, a line that runs, and what is done with the configuration."""

    config: type
    example: str
    run: Callable[[Any], int]


def mode_of(arguments: Sequence[str]) -> Mode:
    """The published benchmarks if ``--dataset`` is among the flags, else scoring against a ground truth."""
    flags = {word.partition("=")[0] for word in arguments}
    if flags & set(DATASET_FLAGS):
        return Mode(published_config.PublishedConfig, published_config.EXAMPLE, published_session.run)
    return Mode(EvaluateConfig, EXAMPLE, run_tasks)


def run_tasks(config: EvaluateConfig) -> int:
    """Evaluate against a ground truth of the user's; returns the exit code."""
    setup_logging(launched_rank())
    if launched_rank() != 0:  # one process computes; the others of a launcher have nothing to add
        return int(ExitCode.OK)
    if config.dry_run:
        print(dry_run_text(config))
        return int(ExitCode.OK)
    results = evaluate(config)
    print(text_table(results))
    print(f"written: {config.output}/report.html, results.json, queries.csv")
    return int(ExitCode.OK)
