"""A results.json as a comparison needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ReelkinError
from ...core.files import read_json
from ..published.outcome import FORMAT, VERSION
from ..published.saved_scores import SavedFile


@dataclass(frozen=True)
class Result:
    """One system on one benchmark.

    Attributes:
        path: the file.
        dataset, protocol: what was evaluated and how.
        annotation, annotation_sha256: version of the ground truth, and hash of what it says.
        coverage: of "queries" and of "database": [found, of].
        aps: average precision of each query by measure; None without a positive.
        positives: number of positives by measure and query.
        metrics: figures by name; those of "events" in a dict.
        database_sha256: of the ids of the videos that were ranked; None if unknown.
        config: flags of the evaluation; empty if unknown.
        scores: the file of its scores; None if it has none.
    """

    path: Path
    dataset: str
    protocol: str
    annotation: str
    annotation_sha256: str
    coverage: Mapping[str, tuple[int, int]]
    aps: Mapping[str, Mapping[str, float | None]]
    positives: Mapping[tuple[str, str], int]
    metrics: Mapping[str, Any]
    database_sha256: str | None
    config: Mapping[str, Any]
    scores: SavedFile | None

    def facts(self) -> dict[str, str]:
        """What two results must agree on, and the version of the annotation."""
        return {name: getattr(self, name) for name in ("dataset", "protocol", "annotation", "annotation_sha256")}


def read_result(path: Path) -> Result:
    """A results.json. Raises ReelkinError when it is none of a benchmark."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ReelkinError(
            f"{path} holds no results of a benchmark; give the results.json of evaluate/run.py --dataset NAME"
        )
    if content.get("version") != VERSION:
        raise ReelkinError(
            f"{path} is of version {content.get('version')}; this program reads {VERSION}: evaluate again"
        )
    try:
        return _result(path, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReelkinError(f"{path} is damaged ({type(error).__name__}: {error}); evaluate again") from error


def _result(path: Path, content: Mapping[str, Any]) -> Result:
    coverage = {what: tuple(map(int, content["coverage"][what])) for what in ("queries", "database")}
    if any(len(pair) != 2 for pair in coverage.values()):
        raise ValueError("its coverage is not [found, of]")
    saved = content.get("scores_file")
    return Result(
        path=path,
        **{name: str(content[name]) for name in ("dataset", "protocol", "annotation", "annotation_sha256")},
        coverage={what: (pair[0], pair[1]) for what, pair in coverage.items()},
        aps={
            str(measure): {query: None if ap is None else _share(ap) for query, ap in of_query.items()}
            for measure, of_query in content["queries"].items()
        },
        positives={(row["measure"], row["query"]): int(row["num_positives"]) for row in content["query_table"]},
        metrics={str(name): _figure(value) for name, value in content["metrics"].items()},
        database_sha256=content.get("database_sha256"),
        config=dict(content.get("config", {})),
        scores=None if saved is None else SavedFile.from_json(saved),
    )


def _share(value: Any) -> float:
    """An average precision or a figure. Raises ValueError."""
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} stands where a number from 0 to 1 should")
    return number


def _figure(value: Any) -> Any:
    """None, a figure, or a dict of them. Raises ValueError."""
    if isinstance(value, dict):
        return {str(name): _figure(part) for name, part in value.items()}
    return None if value is None else _share(value)
