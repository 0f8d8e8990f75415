"""Putting the accounts of all shards together: the two tables, then ``shards.json``, last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ...core.errors import ExitCode, Reason, ReelkinError
from ...core.files import publish_json, publish_table, publishing, read_json, sha256_file
from ..index import CLIPS_NAME, FORMAT, INDEX_NAME, MANIFEST_NAME, TABLES, VERSION, sealed
from ..manifest import OK, REJECTED, ClipRow, VideoRow
from .records import read_settled
from .state import Round, State

ANNOTATIONS = "annotations"
OUTCOME_NAME = "outcome.json"
_NOT_COUNTED = (Reason.MISSING.value, Reason.REMOVED.value)


@dataclass(frozen=True)
class Outcome:
    """What a folder of shards came to; the same on every rank.

    Attributes:
        num_videos, num_rejected, num_shards: counts over the whole corpus.
        bytes: of all shards.
        reasons: rejected inputs by reason.
        exit_code: OK, or REJECTS when more were rejected than the budget allows.
    """

    num_videos: int
    num_rejected: int
    num_shards: int
    bytes: int
    reasons: dict[str, int]
    exit_code: int

    def __str__(self) -> str:
        text = f"{self.num_videos - self.num_rejected} of {self.num_videos} videos in {self.num_shards} shards"
        text += f", {self.bytes / 1e6:.1f} MB"
        if self.num_rejected:
            ordered = sorted(self.reasons.items(), key=lambda kv: (-kv[1], kv))
            text += f"; {self.num_rejected} rejected: {', '.join(f'{reason} {n}' for reason, n in ordered)}"
        return text

    @property
    def reject_share(self) -> float:
        """Rejected among those that were there: what is missing or was taken out does not count."""
        absent = sum(self.reasons.get(reason, 0) for reason in _NOT_COUNTED)
        there = self.num_videos - absent
        return (self.num_rejected - absent) / there if there else 1.0


def merge(
    output: Path, state: State, max_reject_share: float, annotations: Mapping[str, pa.Table] | None = None
) -> Outcome:
    """Publish the tables and ``shards.json`` from the records of all complete rounds.

    Args:
        annotations: of the data set that was listed, by name; None leaves those that are there.

    Raises:
        ReelkinError: a record is missing or damaged, or the disk is full.
    """
    manifest = VideoRow.SCHEMA.empty_table()
    clips = [ClipRow.SCHEMA.empty_table()]
    shards: list[dict[str, Any]] = []
    for step in state.rounds:
        if not step.complete:
            continue
        videos = []
        for number in step.shards:
            record = read_settled(output, number)
            videos.append(pa.Table.from_pylist(record.videos, schema=VideoRow.SCHEMA))
            clips.append(pa.Table.from_pylist(record.clips, schema=ClipRow.SCHEMA))
            if record.shard:
                shards.append(record.shard)
        manifest = _superseded(manifest, pa.concat_tables([VideoRow.SCHEMA.empty_table(), *videos]), step)
    manifest = manifest.take(pc.sort_indices(manifest, sort_keys=[("video_id", "ascending")]))
    tables = {MANIFEST_NAME: manifest, CLIPS_NAME: pa.concat_tables(clips)}
    hashes = _known_annotations(output)
    (output / INDEX_NAME).unlink(missing_ok=True)  # nobody reads the folder while its tables are exchanged
    hashes |= _publish_annotations(output, annotations or {}, alone=len(state.rounds) == 1 and annotations is not None)
    for name in TABLES:
        publish_table(output / name, tables[name])
    index = {
        "format": FORMAT,
        "version": VERSION,
        "shards": shards,
        "tables": {name: sha256_file(output / name) for name in TABLES},
        "annotations": {
            path.name: hashes.get(path.name) or sha256_file(path)
            for path in sorted((output / ANNOTATIONS).glob("*.csv"))
        },
        "config": state.rounds[0].config,
        "rounds": sum(step.complete for step in state.rounds),
    }
    publish_json(output / INDEX_NAME, sealed(index))
    return _outcome(output, manifest, shards, max_reject_share)


def _known_annotations(output: Path) -> dict[str, str]:
    """Hashes of annotations as they were written: what has been damaged since is not taken for good."""
    try:
        found = read_json(output / INDEX_NAME)["annotations"]
        return {str(name): str(digest) for name, digest in found.items()}
    except (ReelkinError, KeyError, TypeError, AttributeError):
        return {}


def _publish_annotations(output: Path, tables: Mapping[str, pa.Table], alone: bool) -> dict[str, str]:
    """Write annotations, and remove others when these are all; their hashes."""
    folder = output / ANNOTATIONS
    for path in folder.glob("*.csv") if alone else ():
        if path.stem not in tables:
            path.unlink()
    for name, table in tables.items():
        with publishing(folder / f"{name}.csv") as temporary:
            pyarrow.csv.write_csv(table, temporary)
    return {f"{name}.csv": sha256_file(folder / f"{name}.csv") for name in tables}


def _superseded(before: pa.Table, after: pa.Table, step: Round) -> pa.Table:
    """The rows after a round: those of a retry take the place of all rows of their ids, none of which was usable.

    For whatever reason: what a retry took up may have been taken out since, also from the first round.
    """
    if step.kind == "retry":
        again = pc.is_in(before["video_id"], value_set=after["video_id"].combine_chunks())
        before = before.filter(pc.invert(again))
    return pa.concat_tables([before, after])


def _outcome(output: Path, manifest: pa.Table, shards: list[dict[str, Any]], max_reject_share: float) -> Outcome:
    rejected = manifest.filter(pc.equal(manifest["status"], REJECTED))
    reasons = Counter(rejected["reason"].to_pylist())
    size = sum(shard["bytes"] for shard in shards)
    outcome = Outcome(manifest.num_rows, rejected.num_rows, len(shards), size, dict(reasons), int(ExitCode.OK))
    nothing = not pc.any(pc.equal(manifest["status"], OK)).as_py()
    if nothing or outcome.reject_share > max_reject_share:
        outcome = Outcome(**{**vars(outcome), "exit_code": int(ExitCode.REJECTS)})
    publish_json(output / OUTCOME_NAME, vars(outcome))
    return outcome
