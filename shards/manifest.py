"""The rows of the two tables beside the shards: one per input video, one per clip."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pyarrow as pa

from ..core.errors import ReelkinError

OK = "ok"
REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class VideoRow:
    """What became of one input video (manifest.parquet).

    Attributes:
        video_id: the id.
        status: "ok" or "rejected".
        reason: "" or the value of a `Reason`.
        detail: a sentence for the reason.
        path: name relative to the source it was listed from.
        num_clips: clips in the shards; 0 when rejected.
        num_frames, fps, duration_seconds, codec, width, height, rotation, pix_fmt: as in `probe.Probe`; zero or empty
            when rejected.
        bytes: the file's size, 0 when it is missing.
        sha256: of the file, "" when rejected.
    """

    video_id: str
    status: str
    reason: str = ""
    detail: str = ""
    path: str = ""
    num_clips: int = 0
    num_frames: int = 0
    fps: float = 0.0
    duration_seconds: float = 0.0
    codec: str = ""
    width: int = 0
    height: int = 0
    rotation: int = 0
    pix_fmt: str = ""
    bytes: int = 0
    sha256: str = ""

    SCHEMA: ClassVar[pa.Schema]


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip in a shard (clips.parquet).

    Attributes:
        video_id: the video it belongs to.
        shard: file name of the tar.
        key: base name of its members.
        container: extension of the member that holds the video.
        start_seconds, duration_seconds: which part of the video it is.
        num_frames: pictures in the clip.
        bytes, sha256: of the member that holds the video.
        offset: byte of the tar at which that member's data begins.
    """

    video_id: str
    shard: str
    key: str
    container: str
    start_seconds: float
    duration_seconds: float
    num_frames: int
    bytes: int
    sha256: str
    offset: int

    SCHEMA: ClassVar[pa.Schema]


_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}


def _schema(row: type) -> pa.Schema:
    return pa.schema([pa.field(f.name, _ARROW[str(f.type)], nullable=False) for f in dataclasses.fields(row)])


VideoRow.SCHEMA = _schema(VideoRow)
ClipRow.SCHEMA = _schema(ClipRow)

Row = TypeVar("Row", VideoRow, ClipRow)


def from_table(table: pa.Table, row: type[Row]) -> list[Row]:
    """Rows of an arrow table. Columns that this version does not know are passed over.

    Raises:
        ReelkinError: a column is missing.
    """
    names = row.SCHEMA.names
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ReelkinError(
            f"the table of {row.__name__} lacks the columns {', '.join(missing)}; build the shards again"
        )
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in names]
    return [row(*values) for values in zip(*columns, strict=True)]
