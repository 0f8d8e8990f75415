"""Which video goes into which shard: decided from the sorted list of inputs alone, before any is opened.

So the assignment depends neither on the number of workers nor on which videos turn out to be unusable, and a shard is
the unit of work, of spreading over ranks and of going on after a stop. A million inputs are held as one table; only the
group at hand becomes objects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...core.errors import Reason, ReelkinError
from ...core.files import sha256_bytes
from ..sources.inputs import Kind, VideoInput

SHARD_DIGITS = 6


def shard_name(number: int) -> str:
    """File name of a shard's tar."""
    return f"clips-{number:0{SHARD_DIGITS}d}.tar"


@dataclass(frozen=True)
class Group:
    """The inputs of one shard.

    Attributes:
        number: of the shard.
        inputs: in ascending order of id.
        sha256: hash of the settings and of the inputs' ids, names, sizes and times of change.
    """

    number: int
    inputs: tuple[VideoInput, ...]
    sha256: str

    @property
    def shard_name(self) -> str:
        """File name of the tar."""
        return shard_name(self.number)


_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.binary()),  # as the operating system gives it; need not be UTF-8
        ("name", pa.string()),
        ("bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("kind", pa.string()),
    ]
)
_CHUNK = 10_000


def _table(inputs: Sequence[VideoInput]) -> pa.Table:
    batches = []
    for first in range(0, len(inputs), _CHUNK):
        part = inputs[first : first + _CHUNK]
        columns = [
            [i.video_id for i in part],
            [os.fsencode(i.path) for i in part],
            [i.name for i in part],
            [i.bytes for i in part],
            [i.modified_ns for i in part],
            ["" if i.reason is None else i.reason.value for i in part],
            [i.detail for i in part],
            [i.kind.value for i in part],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
    return pa.Table.from_batches(batches, schema=_SCHEMA)


def _inputs(table: pa.Table) -> Iterator[VideoInput]:
    for video_id, path, name, size, modified_ns, reason, detail, kind in zip(
        *(column.to_pylist() for column in table.columns), strict=True
    ):
        known = Reason(reason) if reason else None
        yield VideoInput(video_id, os.fsdecode(path), name, size, modified_ns, known, detail, Kind(kind))


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that ranks must agree on before they start.

    Attributes:
        inputs: a row per input, in ascending order of id.
        config: `BuildConfig.effective`.
        first_shard: number of the first group's shard.
        offsets: group n holds the rows ``offsets[n]`` to ``offsets[n + 1]``.
        hashes: of each group.
        sha256: hash over the groups.
    """

    inputs: pa.Table
    config: dict[str, Any]
    first_shard: int
    offsets: list[int]
    hashes: list[str]
    sha256: str

    @classmethod
    def make(cls, inputs: Sequence[VideoInput], config: dict[str, Any], first_shard: int = 0) -> Plan:
        """Plan a build of ``inputs``, sorted by id."""
        offsets = _cut(inputs, config["shard_bytes"], config["shard_videos"])
        hashes = [_fingerprint(inputs[first:last], config) for first, last in pairwise(offsets)]
        digest = sha256_bytes("".join(hashes).encode("ascii"))
        return cls(_table(inputs), config, first_shard, offsets, hashes, digest)

    def __len__(self) -> int:
        return len(self.hashes)

    def __repr__(self) -> str:
        return f"Plan({self.num_inputs} inputs, {len(self)} shards from {self.first_shard})"

    @property
    def num_inputs(self) -> int:
        """Inputs in all groups."""
        return self.inputs.num_rows

    @property
    def bytes(self) -> int:
        """Size of all inputs that exist."""
        return self.bytes_of(0, len(self))

    def bytes_of(self, first: int, last: int) -> int:
        """Size of the inputs of the groups ``first`` to ``last`` (excluded) that exist."""
        start = self.offsets[first]
        sizes = self.inputs.column("bytes").slice(start, self.offsets[last] - start)
        return pc.sum(pc.max_element_wise(sizes, 0)).as_py() or 0

    def num_inputs_of(self, group: int) -> int:
        """Inputs of a group."""
        return self.offsets[group + 1] - self.offsets[group]

    def number(self, group: int) -> int:
        """Number of a group's shard."""
        return self.first_shard + group

    def group(self, group: int) -> Group:
        """One group with its inputs. Raises ReelkinError when they are not those that the plan was made for."""
        rows = tuple(_inputs(self.inputs.slice(self.offsets[group], self.num_inputs_of(group))))
        if _fingerprint(rows, self.config) != self.hashes[group]:
            raise ReelkinError(
                f"the inputs of shard {self.number(group)} are not those of the plan: this machine sees an older state "
                "of the output folder; run the same command again"
            )
        return Group(self.number(group), rows, self.hashes[group])

    def to_plain(self) -> dict[str, Any]:
        """All but the inputs, as values that can be sent to other ranks."""
        return {
            "config": self.config,
            "first_shard": self.first_shard,
            "offsets": self.offsets,
            "hashes": self.hashes,
            "sha256": self.sha256,
        }

    @classmethod
    def from_plain(cls, inputs: pa.Table, value: dict[str, Any]) -> Plan:
        """The inverse of `to_plain`, given the inputs."""
        return cls(inputs, **value)


def _cut(inputs: Sequence[VideoInput], shard_bytes: int, shard_videos: int) -> list[int]:
    """Offsets of groups of at most so many bytes and videos; a larger video gets a group to itself."""
    offsets, size = [0], 0
    for number, entry in enumerate(inputs):
        length = max(0, entry.bytes)
        held = number - offsets[-1]
        if held and (held >= shard_videos or size + length > shard_bytes):
            offsets.append(number)
            size = 0
        size += length
    return [*offsets, len(inputs)] if inputs else offsets


def _fingerprint(inputs: Sequence[VideoInput], config: dict[str, Any]) -> str:
    # shard_bytes and the like only decide which inputs are in the group, and the inputs are hashed themselves.
    settings = {name: value for name, value in config.items() if name not in ("shard_bytes", "shard_videos", "limit")}
    rows = [[i.video_id, i.name, i.bytes, i.modified_ns, i.reason, i.detail, i.kind] for i in inputs]
    return sha256_bytes(json.dumps([settings, rows], ensure_ascii=True).encode("ascii"))
