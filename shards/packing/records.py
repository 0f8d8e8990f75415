"""What became of the inputs of one shard, beside the shards: a shard with its record is done and skipped by a rerun.

A record says everything that the tables need, so the tables can be put together again at any time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import ReelkinError
from ...core.files import publish_text, read_json
from ..archive import structure_sha256
from ..manifest import ClipRow, VideoRow
from .plan import SHARD_DIGITS, shard_name

RECORDS = "records"
_FORMAT, _VERSION = "reelkin-shard-record", 2


@dataclass
class Record:
    """One shard's account.

    Attributes:
        inputs_sha256: `plan.Group.sha256`.
        shard: name, bytes, structure_sha256 and num_clips as in shards.json; None when no input was usable.
        videos: a row per input.
        clips: a row per clip, in the order of the tar.
        becoming: the record of the shard that is about to replace this one (videos are being taken out), or None.
    """

    inputs_sha256: str
    shard: dict[str, Any] | None
    videos: list[dict[str, Any]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)
    becoming: Record | None = None

    @classmethod
    def of(
        cls, inputs_sha256: str, shard: dict[str, Any] | None, videos: list[VideoRow], clips: list[ClipRow]
    ) -> Record:
        """Make a record from rows."""
        return cls(inputs_sha256, shard, [asdict(row) for row in videos], [asdict(row) for row in clips])


def record_path(output: Path, number: int) -> Path:
    """Where the record of a shard is."""
    return output / RECORDS / f"{number:0{SHARD_DIGITS}d}.json"


def write_record(output: Path, number: int, record: Record) -> None:
    """Publish a record. Raises ReelkinError when it cannot be written."""
    value = {"format": _FORMAT, "version": _VERSION, **asdict(record)}
    publish_text(record_path(output, number), json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n")


def read_record(output: Path, number: int) -> Record:
    """Read a record.

    Raises:
        ReelkinError: there is none, or it is not as it was written.
    """
    path = record_path(output, number)
    if not path.exists():
        raise ReelkinError(
            f"{path}, the account of a shard, is gone; restore it from a copy, or build into a new folder"
        )
    value = read_json(path)
    try:
        if (value.pop("format"), value.pop("version")) != (_FORMAT, _VERSION):
            raise ValueError
        becoming = value.pop("becoming")
        return Record(**value, becoming=Record(**becoming) if becoming else None)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ReelkinError(f"{path} is not the account of a shard; remove it and run the same command again") from None


def read_settled(output: Path, number: int) -> Record:
    """The account of a shard that holds (see `settle`). Raises ReelkinError when it or the shard cannot be read."""
    try:
        return settle(output, number, read_record(output, number))
    except OSError as error:
        raise ReelkinError(f"cannot read {output / shard_name(number)}: {error.strerror or error}") from error


def read_if_done(output: Path, number: int, inputs_sha256: str) -> Record | None:
    """The record of a shard that is there and holds just these inputs, else None."""
    if not record_path(output, number).exists():
        return None
    try:
        record = read_settled(output, number)
        size = (output / shard_name(number)).stat().st_size if record.shard else 0
        done = record.inputs_sha256 == inputs_sha256 and (record.shard is None or record.shard["bytes"] == size)
        return record if done else None
    except (ReelkinError, OSError, KeyError, TypeError):
        return None


def settle(output: Path, number: int, record: Record) -> Record:
    """Find out which of a shard's two accounts holds, after a stop between exchanging the tar and its record.

    Raises:
        OSError: the shard cannot be read.
    """
    after = record.becoming
    if after is None:
        return record
    path = output / shard_name(number)
    if path.exists() if after.shard is None else structure_sha256(path) != after.shard["structure_sha256"]:
        record.becoming = None  # it was never exchanged
        return record
    write_record(output, number, after)
    return after
