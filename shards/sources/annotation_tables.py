"""Annotations as tables in a data set's own ids: videos, pairs that show the same, pairs judged not to.

Rows are sorted and each stands once, so that the same annotation gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from .inputs import printable

logger = logging.getLogger(__name__)

Times = tuple[float | None, float | None, float | None, float | None]
"""Start and end in the query, start and end in the video; seconds, None when unknown."""

Row = tuple[str, str, str, Times]
"""Query, video, label, times."""

UNKNOWN: Times = (None, None, None, None)

JUDGED = pa.schema([("query", pa.string()), ("video", pa.string()), ("label", pa.string())])
"""Rows of "negatives": pairs that were judged not to show the same."""

PAIRS = pa.schema(
    [*JUDGED, *((name, pa.float64()) for name in ("query_start", "query_end", "video_start", "video_end"))]
)
"""Rows of "pairs": pairs that show the same, and where; times in seconds, null when unknown."""


class PairRows:
    """Collects the rows of a table of pairs; a video paired with itself and repeated rows are left out and counted."""

    def __init__(self) -> None:
        self._rows: dict[Row, None] = {}
        self.num_selves = 0
        self.num_repeated = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, query: str, video: str, label: str, times: Times = UNKNOWN) -> None:
        """Add a pair; ``times`` as in `Times`."""
        row = (query, video, label, times)
        if query == video:
            self.num_selves += 1
        elif row in self._rows:
            self.num_repeated += 1
        else:
            self._rows[row] = None

    def joined(self) -> set[frozenset[str]]:
        """The pairs without direction, labels and times."""
        return {frozenset(row[:2]) for row in self._rows}

    def _sorted(self) -> list[Row]:
        return sorted(self._rows, key=lambda row: (*row[:3], tuple((t is not None, t or 0.0) for t in row[3])))

    def pairs(self, layout: str) -> pa.Table:
        """The table "pairs", of the schema `PAIRS`."""
        rows = self._sorted()
        self._log(layout, "pairs")
        return pa.table([*_texts(rows), *([row[3][i] for row in rows] for i in range(4))], schema=PAIRS)

    def judged(self, layout: str, name: str = "negatives") -> pa.Table:
        """The table "negatives" (or another without times), of the schema `JUDGED`."""
        rows = self._sorted()
        self._log(layout, name)
        return pa.table(_texts(rows), schema=JUDGED)

    def _log(self, layout: str, name: str) -> None:
        left_out = []
        if self.num_selves:
            left_out.append(f"{self.num_selves} of a video with itself")
        if self.num_repeated:
            left_out.append(f"{self.num_repeated} that stood there already")
        tail = f" ({' and '.join(left_out)} left out)" if left_out else ""
        logger.info("%s: %d rows of %s%s", layout, len(self), name, tail)


def _texts(rows: list[Row]) -> list[list[str]]:
    """The columns query, video and label."""
    columns = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    return [[printable(text) for text in column] for column in columns]


def videos_table(ids: Iterable[str], columns: Sequence[str], facts: Mapping[str, Mapping[str, str]]) -> pa.Table:
    """The table "videos": a row per id in ascending order, with the attributes that are known, else "".

    Args:
        ids: the data set's ids, in any order; each gets one row.
        columns: names of the attributes.
        facts: attributes by id.
    """
    ordered = sorted(set(ids))
    arrays = [pa.array([printable(video_id) for video_id in ordered], pa.string())]
    for column in columns:
        values = (facts[video_id].get(column, "") if video_id in facts else "" for video_id in ordered)
        arrays.append(pa.array([printable(value) for value in values], pa.string()))
    return pa.table(arrays, names=["video_id", *columns])
