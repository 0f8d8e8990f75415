"""Taking videos out of finished shards: their bytes leave the disk, and a row says that they were removed.

What a shard holds after a removal is what a build without those videos would have written, so nothing else changes:
other clips keep their keys and hashes. The list of removed ids is published first; a later build keeps them out, and a
removal that was stopped goes on with the same command.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.errors import Reason, ReelkinError, UsageError
from ...core.files import remove_partials
from ...core.progress import Progress
from ..archive import Archive
from ..index import INDEX_NAME
from ..manifest import OK, REJECTED
from ..writer import Section, writing_shard
from .merging import Outcome, merge
from .plan import shard_name
from .records import RECORDS, Record, read_settled, write_record
from .state import State, read_removed, write_removed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removal:
    """What a removal came to.

    Attributes:
        removed: ids that are out now and were in before.
        unknown: ids of which the folder has no row.
        shards: names of the shards that were written anew or are gone.
        outcome: the folder as it is now.
    """

    removed: list[str]
    unknown: list[str]
    shards: list[str]
    outcome: Outcome


def find(output: Path, video_ids: Sequence[str]) -> dict[int, set[str]]:
    """The shards of which ids have a row: ids by number of the shard.

    Raises:
        UsageError: the folder holds no complete build.
        ReelkinError: an account is damaged.
    """
    wanted = set(video_ids)
    found: dict[int, set[str]] = {}
    for number in _numbers(output):
        ids = {row["video_id"] for row in read_settled(output, number).videos} & wanted
        if ids:
            found[number] = ids
    return found


def remove(output: Path, video_ids: Sequence[str], *, pass_over_lost: bool = False) -> Removal:
    """Take videos out. Ids that are unknown are passed over.

    Args:
        pass_over_lost: leave shards that are not there to the build that is about to write them again.

    Raises:
        UsageError: the folder holds no complete build.
        ReelkinError: a shard cannot be read or written; what was done is kept, and the same call goes on.
    """
    found = find(output, video_ids)
    known = set().union(*found.values())
    changed: list[str] = []
    removed: set[str] = set()
    if known:
        write_removed(output, known | read_removed(output))
        (output / INDEX_NAME).unlink(missing_ok=True)
        remove_partials(output)
        remove_partials(output / RECORDS)
        with Progress(len(found), "shards", "taking videos out") as progress:
            for number, ids in sorted(found.items()):
                record = read_settled(output, number)
                if pass_over_lost and record.shard and not (output / shard_name(number)).exists():
                    continue
                removed |= {row["video_id"] for row in record.videos if row["video_id"] in ids and row["status"] == OK}
                if _take_out(output, number, record, ids):
                    changed.append(shard_name(number))
                progress.advance()
    outcome = merge(output, State.read(output), 1.0)
    return Removal(sorted(removed), sorted(set(video_ids) - known), changed, outcome)


def _numbers(output: Path) -> range:
    state = State.read(output)
    if not state.rounds or state.pending:
        raise UsageError(f"shards: {output} holds no finished shards; let the build go on first, with its own command")
    return range(state.next_shard)


def _take_out(output: Path, number: int, record: Record, ids: set[str]) -> bool:
    """Write one shard and its account anew. False when only the account changes."""
    after = Record(
        record.inputs_sha256, None, [_without(row) if row["video_id"] in ids else row for row in record.videos]
    )
    path = output / shard_name(number)
    if record.shard is None or not any(clip["video_id"] in ids for clip in record.clips):
        after.shard, after.clips = record.shard, record.clips
        write_record(output, number, after)
        return False
    kept = {clip["key"]: dict(clip) for clip in record.clips if clip["video_id"] not in ids}
    if not kept:
        record.becoming = after
        write_record(output, number, record)
        path.unlink(missing_ok=True)
    else:
        with writing_shard(path) as writer:
            for row, content in _kept_clips(path, kept):
                member = writer.add(row["key"], row["container"], Section(path, row["offset"], row["bytes"]), content)
                if member.sha256 != row["sha256"]:
                    raise ReelkinError(
                        f"{path}: clip {row['key']} is not as it was written; run shards/verify.py {output}, repair "
                        "what it names, and then the same command again"
                    )
                after.clips.append({**row, "offset": member.offset})
            writer.finish()
            after.shard = asdict(writer.entry(path.name))
            record.becoming = after  # from here on either account may turn out to be the right one
            write_record(output, number, record)
    write_record(output, number, after)
    return True


def _kept_clips(path: Path, kept: dict[str, dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of the clips that stay, with the content of their JSON members, in the order of the archive."""
    with Archive(path) as archive:
        for member in archive:
            if member.key in kept and member.extension == "json":
                text = b"".join(bytes(part) for part in archive.data(member))
                yield kept[member.key], json.loads(text)


def _without(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a removed video, as a build that keeps it out writes it."""
    reason = Reason.REMOVED
    blank = {name: type(value)() for name, value in row.items() if name not in ("video_id", "path", "bytes")}
    return {**row, **blank, "status": REJECTED, "reason": reason.value, "detail": "taken out on request"}
