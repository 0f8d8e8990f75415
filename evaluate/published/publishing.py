"""What a published benchmark's evaluation leaves behind: results.json for programs, queries.csv for spreadsheets."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import ReelkinError
from ...core.tables import csv_text
from .annotation import Annotation
from .outcome import Outcome
from .saved_scores import SavedFile

COLUMNS = (
    *("system", "measure", "query", "group", "ap", "num_positives"),
    *("best_wrong", "best_wrong_score", "best_wrong_place"),
    *("best_missed", "best_missed_score", "best_missed_place"),
    *("num_missing", "missing"),
)


@dataclass(frozen=True)
class System:
    """One way of scoring videos, and its figures.

    Attributes:
        name: as it stands beside its figures.
        description: one sentence.
        outcome: its figures.
    """

    name: str
    description: str
    outcome: Outcome


@dataclass(frozen=True)
class Evaluation:
    """A system on a benchmark, beside what needs no training.

    Attributes:
        system: what was evaluated.
        baselines: trivial solutions on the same queries and videos.
        groups: what each query belongs to (EVVE: its event).
        database_sha256: of the ids of the videos that were ranked.
        config: the resolved configuration, JSON values.
        scores: the file of its scores; None if there is none.
    """

    system: System
    baselines: Sequence[System] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    database_sha256: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    scores: SavedFile | None = None

    def as_json(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            **self.system.outcome.as_json(),
            "database_sha256": self.database_sha256,
            "scores_file": None if self.scores is None else vars(self.scores),
            "system": {"name": self.system.name, "description": self.system.description},
            "baselines": {system.name: _baseline_json(system) for system in self.baselines},
            "config": dict(self.config),
        }

    def queries_csv(self) -> str:
        """A row per system, measure and query; ``ap`` is empty for one without positives, ``missing`` a JSON list."""
        return csv_text(
            COLUMNS,
            (
                [
                    *(system.name, row.measure, row.query, self.groups.get(row.query, "")),
                    *("" if row.ap is None else f"{row.ap:.6f}", row.num_positives),
                    *_place(row.best_wrong, row.best_wrong_score, row.best_wrong_place),
                    *_place(row.best_missed, row.best_missed_score, row.best_missed_place),
                    *(len(row.missing), json.dumps(row.missing, ensure_ascii=False) if row.missing else ""),
                ]
                for system in (self.system, *self.baselines)
                for row in system.outcome.rows
            ),
        )

    def text(self) -> str:
        """The figures for a terminal."""
        return self.system.outcome.text({system.name: system.outcome for system in self.baselines})


def _place(video_id: str | None, score: float | None, place: int | None) -> tuple[str, str, int | str]:
    return video_id or "", "" if score is None else f"{score:.6g}", "" if place is None else place


def _baseline_json(system: System) -> dict[str, Any]:
    kept = {key: value for key, value in system.outcome.as_json().items() if key in ("metrics", "intervals", "queries")}
    return {"description": system.description, **kept}


def hash_of_ids(annotation: Annotation, database: Sequence[str]) -> str:
    """sha256 of the ids of the annotation's database that are in ``database``, in no order."""
    found = set(map(annotation.normal_id, database))
    if annotation.database is not None:
        found &= set(annotation.database)
    digest = hashlib.sha256()
    for video_id in sorted(found):
        digest.update(video_id.encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def check_writable(path: Path) -> None:
    """Refuse, before any work, an output that could not be written. Makes nothing.

    Raises:
        ReelkinError: the file is a folder, or the nearest folder that exists is none or may not be written to.
    """
    if path.is_dir():
        raise ReelkinError(f"--output {path} is a folder; give a .json file in it, or a folder of another name")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        state = "cannot be written to" if folder.is_dir() else "is no folder"
        raise ReelkinError(f"--output {path} cannot be written: {folder} {state}; choose another place")
