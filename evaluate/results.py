"""What an evaluation leaves behind: results.json for programs and queries.csv for spreadsheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.files import publish_json, publish_text
from ..core.tables import csv_text
from ..search.text import shown
from .ground_truth import SHOWN
from .rankings import Gain, MethodResult, TaskResult, gain

FORMAT, VERSION = "reelkin-results", 1
BASELINE = "mean-pool"
QUERY_COLUMNS = ("task", "query", "group", "method", "ap", "num_positives", "best_match", "best_score")


@dataclass(frozen=True)
class Results:
    """All tasks of one evaluation.

    Attributes:
        title: of the report.
        tasks: in the order shown.
        config: the resolved configuration, JSON values.
        inputs: what was evaluated (encoder, PCA, model, hashes), JSON values.
        seed: of the intervals.
    """

    title: str
    tasks: Sequence[TaskResult]
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def mean(self, method: str, task: str = "") -> float | None:
        """Mean average precision of a method on a task. Raises KeyError."""
        return {result.task.name: result for result in self.tasks}[task].by_name(method).mean

    def gains(self, result: TaskResult) -> dict[str, Gain]:
        """Difference to mean pooling of each method that is no trivial solution."""
        names = [other.method.name for other in result.methods]
        if BASELINE not in names:
            return {}
        baseline = result.by_name(BASELINE)
        found = {
            other.method.name: gain(result.task, other, baseline, seed=self.seed)
            for other in result.methods
            if not other.method.trivial
        }
        return {name: value for name, value in found.items() if value is not None}


def as_json(results: Results) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": results.title,
        "config": dict(results.config),
        "inputs": dict(results.inputs),
        "seed": results.seed,
        "tasks": [_task_json(results, result) for result in results.tasks],
    }


def _task_json(results: Results, result: TaskResult) -> dict[str, Any]:
    task, coverage = result.task, result.task.coverage
    return {
        "name": task.name,
        "protocol": task.protocol,
        "ids_sha256": task.ids_sha256,
        "num_queries": len(task.queries),
        "num_database": len(task.database),
        "num_bootstrap_units": task.num_draws,
        "coverage": {
            "line": coverage.line,
            "ids": {"named": coverage.ids_named, "found": coverage.ids_found},
            "queries": {"named": coverage.queries_named, "evaluated": coverage.queries_evaluated},
            "positives": {"named": coverage.positives_named, "found": coverage.positives_found},
            "queries_without_positives": list(coverage.queries_without_positives),
            "missing": list(coverage.missing),
            "duplicates": list(coverage.duplicates),
        },
        "methods": [_method_json(other) for other in result.methods],
        "gain_over_mean_pool": {
            name: {"mean": value.mean, "low": value.low, "high": value.high}
            for name, value in results.gains(result).items()
        },
    }


def _method_json(result: MethodResult) -> dict[str, Any]:
    return {
        "method": result.method.name,
        "description": result.method.description,
        "trivial": result.method.trivial,
        "map": result.mean,
        "low": result.low,
        "high": result.high,
        "micro_ap": result.micro_ap,
        "score_percentiles": None if result.spread is None else {"p1": result.spread[0], "p99": result.spread[1]},
        "collapsed": result.collapsed,
        "num_averaged": len(result.aps),
        "seconds": round(result.seconds, 3),
    }


def queries_csv(results: Results) -> str:
    """A row per task, query and method; ``ap`` is empty for a query without positives."""
    rows = []
    for result in results.tasks:
        for method in result.methods:
            for query in method.queries:
                best = query.best[0] if query.best else None
                rows.append(
                    [
                        result.task.name,
                        query.query,
                        result.task.groups.get(query.query, ""),
                        method.method.name,
                        "" if query.ap is None else f"{query.ap:.6f}",
                        query.num_positives,
                        best.video_id if best else "",
                        f"{best.score:.6f}" if best else "",
                    ]
                )
    return csv_text(QUERY_COLUMNS, rows)


def text_table(results: Results) -> str:
    """The figures for a terminal: a line per task and method."""
    lines = []
    for result in results.tasks:
        if result.task.name:
            lines.append(f"{result.task.name}:")
        lines.append(f"  {result.task.coverage.line}")
        missing = result.task.coverage.missing
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            lines.append(f"  missing: {', '.join(map(shown, missing[:SHOWN]))}{more}")
        for other in result.methods:
            interval = "no query has a positive" if other.mean is None else f"({other.low:.3f} to {other.high:.3f})"
            value = "  -  " if other.mean is None else f"{other.mean:.3f}"
            lines.append(f"  {other.method.name:<18} mAP {value} {interval}")
    lines += [f"warning: {text}" for text in collapse_warnings(results)]
    return "\n".join(lines)


def collapse_warnings(results: Results) -> list[str]:
    """A sentence for each method whose scores hardly differ, over all tasks."""
    found: dict[str, list[tuple[float, float]]] = {}
    for result in results.tasks:
        for other in result.methods:
            if other.collapsed and other.spread:
                found.setdefault(other.method.name, []).append(other.spread)
    return [
        f"nearly all scores of {name} lie between {min(low for low, _ in spreads):.4f} and "
        f"{max(high for _, high in spreads):.4f}: its embeddings have very likely collapsed to one point; train with a "
        "lower learning rate, for longer, or with more negatives"
        for name, spreads in found.items()
    ]


def publish(results: Results, output: str | Path) -> None:
    """Write queries.csv and then results.json into the folder ``output``."""
    output = Path(output)
    publish_text(output / "queries.csv", queries_csv(results))
    publish_json(output / "results.json", as_json(results))
