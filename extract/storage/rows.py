"""The manifest of a feature store: a row per video, as objects or as the columns of a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...core.errors import ReelkinError


@dataclass(frozen=True)
class StoreRow:
    """A video in manifest.parquet.

    Attributes:
        video_id: unique in the store.
        status: "ok" or "rejected".
        reason, detail: why it was rejected (`core.errors.Reason`) and the sentence; empty when ok.
        block, row: the block's file name and the video's number in it; "" and -1 when rejected.
        num_frames: frames described, 0 when rejected.
        duration_seconds: of the video, as far as known.
        decoder: what made its frames ("pyav").
    """

    video_id: str
    status: str = "ok"
    reason: str = ""
    detail: str = ""
    block: str = ""
    row: int = -1
    num_frames: int = 0
    duration_seconds: float = 0.0
    decoder: str = ""

    @classmethod
    def rejected(cls, video_id: str, reason: str, detail: str, duration_seconds: float = 0.0) -> StoreRow:
        """The row of a video without features."""
        return cls(video_id, "rejected", str(reason), detail, duration_seconds=duration_seconds)


ROW_FIELDS = tuple(field.name for field in fields(StoreRow))
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ROW_FIELDS[:5]]
    + [("row", pa.int64()), ("num_frames", pa.int64()), ("duration_seconds", pa.float64()), ("decoder", pa.string())]
)
_REPEATING = ("status", "reason", "detail", "block", "decoder")


def to_table(rows: Iterable[StoreRow]) -> pa.Table:
    """Rows as a table of the manifest's schema."""
    rows = list(rows)
    return pa.table({name: [getattr(row, name) for row in rows] for name in ROW_FIELDS}, schema=SCHEMA)


def read_manifest(path: Path) -> pa.Table:
    """manifest.parquet, in the order of its rows. Columns with few different values come dictionary-encoded: a million
    rows take 70 MB.

    Raises:
        ReelkinError: the file is damaged, or has other columns.
    """
    try:
        table = pq.read_table(path, partitioning=None, read_dictionary=list(_REPEATING)).select(ROW_FIELDS)
        table.slice(0, 1).cast(SCHEMA)
    except (OSError, KeyError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ReelkinError(f"{path} is no manifest of a feature store ({error}); extract again") from error
    return table.unify_dictionaries().combine_chunks()


def to_rows(table: pa.Table) -> list[StoreRow]:
    """The rows of a table with the manifest's columns."""
    return [StoreRow(**row) for row in table.select(ROW_FIELDS).to_pylist()]
