"""The two tables against themselves, against one another and against ``shards.json``; no loop over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...core.errors import Reason
from ..archive import BLOCK, EXTENSION, KEY, MEMBER_LIMIT_BYTES
from ..index import CLIPS_NAME, MANIFEST_NAME, ShardEntry, shard_number
from ..manifest import OK, REJECTED, ClipRow, VideoRow
from .problems import Problem

_NAMED = 3


def check_columns(table: pa.Table, name: str) -> list[Problem]:
    """Whether a table has the columns, the types and no nulls: without that, nothing else can be said about it."""
    schema = VideoRow.SCHEMA if name == MANIFEST_NAME else ClipRow.SCHEMA
    problems = []
    for column in schema:
        if table.column_names.count(column.name) != 1:
            problems.append(Problem(name, f"has no column {column.name}"))
        elif table.schema.field(column.name).type != column.type:
            found = table.schema.field(column.name).type
            problems.append(Problem(name, f"its column {column.name} is of type {found} instead of {column.type}"))
        elif table.column(column.name).null_count:
            problems.append(Problem(name, f"its column {column.name} has rows without a value"))
    return problems


class TableChecks:
    """Runs checks and collects what they find.

    Attributes:
        problems: so far.
        affected: ids of videos in rows that contradict something.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.affected: set[str] = set()

    def _refuse(self, name: str, text: str, bad: pa.ChunkedArray | np.ndarray, ids: pa.ChunkedArray) -> None:
        """A problem when any row is ``bad``; ``text`` goes on with the number of rows and the first ids."""
        mask = pa.array(np.asarray(bad, dtype=bool))
        count = pc.sum(mask).as_py() or 0
        if count:
            found = ids.filter(mask).to_pylist()
            self.affected.update(found)
            named = ", ".join(repr(one) for one in found[:_NAMED]) + (", ..." if count > _NAMED else "")
            self.problems.append(Problem(name, f"{text} in {count} of {len(ids)} rows: {named}"))

    def manifest(self, table: pa.Table) -> None:
        """Every input is accepted or rejected for a known reason; an accepted one has clips and an id of its own."""
        ids, status, reason = (table.column(name) for name in ("video_id", "status", "reason"))
        ok = np.asarray(pc.equal(status, OK), dtype=bool)
        rejected = np.asarray(pc.equal(status, REJECTED), dtype=bool)
        known = np.asarray(pc.is_in(reason, value_set=pa.array([each.value for each in Reason])), dtype=bool)
        unreasoned = np.asarray(pc.equal(reason, ""), dtype=bool)
        num_clips = table.column("num_clips").to_numpy()
        self._refuse(MANIFEST_NAME, "a status that is neither ok nor rejected", ~(ok | rejected), ids)
        self._refuse(MANIFEST_NAME, "a reason although the video is ok", ok & ~unreasoned, ids)
        self._refuse(MANIFEST_NAME, "a rejection for no known reason", rejected & ~known, ids)
        self._refuse(MANIFEST_NAME, "a video that is ok and has no clip", ok & (num_clips < 1), ids)
        self._refuse(MANIFEST_NAME, "a rejected video with clips", rejected & (num_clips != 0), ids)
        accepted = ids.filter(pa.array(ok))
        self._refuse(MANIFEST_NAME, "an id that belongs to several accepted videos", _repeated(accepted), accepted)

    def clips(self, table: pa.Table) -> None:
        """Names, sizes and places that the writer could have given."""
        ids, keys = table.column("video_id"), table.column("key")
        size, offset = table.column("bytes").to_numpy(), table.column("offset").to_numpy()
        containers = table.column("container")
        for column, pattern in (("key", KEY.pattern), ("container", EXTENSION.pattern), ("sha256", "[0-9a-f]{64}")):
            matches = np.asarray(pc.match_substring_regex(table.column(column), f"^{pattern}$"), dtype=bool)
            self._refuse(CLIPS_NAME, f"a {column} that is never written", ~matches, ids)
        self._refuse(CLIPS_NAME, "the container json", pc.equal(containers, "json"), ids)
        self._refuse(CLIPS_NAME, "a key that stands in another row too", _repeated(keys), ids)
        bad_size = (size < 0) | (size >= MEMBER_LIMIT_BYTES)
        self._refuse(CLIPS_NAME, "a size that no member can have", bad_size, ids)
        self._refuse(CLIPS_NAME, "an offset where no member can begin", (offset < BLOCK) | (offset % BLOCK != 0), ids)
        for column in ("start_seconds", "duration_seconds"):
            seconds = table.column(column).to_numpy()
            self._refuse(CLIPS_NAME, f"a {column} that is no time", ~((seconds >= 0) & np.isfinite(seconds)), ids)
        codes, names = encoded(table.column("shard"))
        numbers = [shard_number(name) for name in names]
        prefixes = pa.array(["" if number is None else f"{number:06d}" for number in numbers], pa.string())
        found = pc.replace_substring_regex(keys, pattern="^([0-9]+)_.*$", replacement=r"\1")
        foreign = pc.not_equal(found, prefixes.take(pa.array(codes))) if len(names) else np.zeros(0, bool)
        self._refuse(CLIPS_NAME, "a key that does not belong to the row's shard", foreign, ids)
        same_shard = np.diff(codes) == 0
        end = offset + size + -size % BLOCK + 2 * BLOCK  # behind the header and the least block of the JSON member
        overlaps = same_shard & (offset[1:] - BLOCK < end[:-1])
        self._refuse(CLIPS_NAME, "a place that overlaps the row before", np.concatenate([[False], overlaps]), ids)

    def shards(self, clips: pa.Table, shards: Sequence[ShardEntry]) -> None:
        """The clip table holds the shards of ``shards.json`` in their order, each with its number of clips."""
        codes, names = encoded(clips.column("shard"))
        listed = {shard.name: number for number, shard in enumerate(shards)}
        places = np.array([listed.get(name, -1) for name in names], np.int64)[codes]
        ids = clips.column("video_id")
        self._refuse(CLIPS_NAME, "a shard that shards.json does not name", places < 0, ids)
        if (np.diff(places) < 0).any():
            self.problems.append(Problem(CLIPS_NAME, "is not in the order of shards.json"))
        counts = np.bincount(places[places >= 0], minlength=len(shards))
        wrong = [(s, n) for s, n in zip(shards, counts.tolist(), strict=True) if s.num_clips != n]
        self.problems += [
            Problem(CLIPS_NAME, f"holds {count} clips of {shard.name}; shards.json says {shard.num_clips}")
            for shard, count in wrong
        ]
        limits = np.array([shard.bytes for shard in shards] + [0], np.int64)[places]
        # The end of an archive takes at least two blocks, the JSON member another two.
        behind = clips.column("offset").to_numpy() + clips.column("bytes").to_numpy() + 4 * BLOCK > limits
        self._refuse(CLIPS_NAME, "a clip that ends behind the end of its shard", (places >= 0) & behind, ids)

    def both(self, manifest: pa.Table, clips: pa.Table) -> None:
        """Every clip belongs to an accepted video, and every accepted video has as many clips as it says."""
        accepted = manifest.filter(pc.equal(manifest.column("status"), OK))
        ids, of_clips = accepted.column("video_id"), clips.column("video_id")
        place = pc.index_in(of_clips, value_set=_whole(ids))
        self._refuse(CLIPS_NAME, "a clip of a video that is not accepted", pc.is_null(place), of_clips)
        counts = np.bincount(_whole(place.drop_null()).to_numpy(zero_copy_only=False), minlength=len(ids))
        wrong = counts != accepted.column("num_clips").to_numpy()
        self._refuse(MANIFEST_NAME, "a num_clips other than the clips in clips.parquet", wrong, ids)


def encoded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """The column as int64 numbers of distinct values, and those values in order of first appearance."""
    array = _whole(column).dictionary_encode()
    return array.indices.to_numpy(zero_copy_only=False).astype(np.int64), array.dictionary.to_pylist()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _repeated(column: pa.ChunkedArray) -> np.ndarray:
    """bool [rows]: whether the same value stands in another row."""
    codes, values = encoded(column)
    if len(values) == len(codes):
        return np.zeros(len(codes), bool)
    return np.bincount(codes)[codes] > 1
