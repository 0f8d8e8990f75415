"""Taking videos out of a feature store: their features leave the disk, and a row says that they were removed.

The steps, each of them atomic: the ids join removed.json; store.json is renamed, so that the folder is no store for a
while; every block that holds one of the videos is written anew without it, and the record beside it too; manifest;
store.json. Killed anywhere, the folder either opens as before or says that this command has to finish, and the same
command does: each step sees whether it was done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...core.errors import Reason, ReelkinError
from ...core.files import publish_json, read_json, remove_partials, sha256_file
from ...core.progress import Progress
from ..store import REMOVING, FeatureStore, StoreRow, publish_store, read_info
from .blocks import Block, map_block, write_block
from .removed import DETAIL, read_removed, removed_row, write_removed
from .rows import read_manifest

log = logging.getLogger("reelkin.extract")


@dataclass(frozen=True)
class Plan:
    """What a removal has to do.

    Attributes:
        known: the named ids that the store has a row of.
        unknown: the others.
        with_features: how many of the known ones have features now.
        blocks: names of the blocks to write anew.
        bytes: of these blocks, which is about what the largest step writes in all.
    """

    known: frozenset[str]
    unknown: list[str]
    with_features: int
    blocks: list[str]
    bytes: int


def plan_removal(folder: Path, video_ids: Collection[str]) -> Plan:
    """See what taking out ``video_ids`` would change. Changes nothing.

    Raises:
        ReelkinError: the folder holds no store, or one that is damaged.
    """
    return _plan(*_state(folder), folder, video_ids)


def _plan(info: dict[str, Any], manifest: pa.Table, stopped: bool, folder: Path, video_ids: Collection[str]) -> Plan:
    wanted = set(video_ids)
    known = set(pc.unique(manifest.column("video_id").filter(_among(manifest, wanted))).to_pylist())
    left = {path.name: record for path, record in _records(folder) if record["block"]["name"] not in _names(info)}
    known |= {row["video_id"] for record in left.values() for row in record["rows"]} & wanted
    # what a removal that was stopped had begun is finished too
    due = known | read_removed(folder)
    held = manifest.filter(pc.and_(_among(manifest, due), pc.equal(manifest.column("status"), "ok")))
    affected = set(pc.unique(held.column("block")).to_pylist())
    for record in left.values():
        if any(row["status"] == "ok" and row["video_id"] in due for row in record["rows"]):
            affected.add(record["block"]["name"])
    if stopped:
        affected |= {each["name"] for each in info["blocks"] if _size(folder / each["name"]) != each["bytes"]}
    size = sum(_size(folder / name) for name in affected)
    return Plan(frozenset(known), sorted(wanted - known), held.num_rows, sorted(affected), size)


def remove(folder: Path, video_ids: Collection[str]) -> Plan:
    """Take videos out of the store in ``folder``. Ids that it has no row of are passed over.

    Without ids it finishes a removal that was stopped. Other blocks are not touched, and the features of the videos
    that stay keep every bit.

    Raises:
        ReelkinError: a block is not as it was written, or cannot be written; what was done is kept, and the same call
            goes on.
    """
    info, manifest, stopped = _state(folder)
    plan = _plan(info, manifest, stopped, folder, video_ids)
    wanted = plan.known | read_removed(folder)
    if not plan.known and not plan.blocks and not stopped:
        return plan
    write_removed(folder, wanted)
    if (folder / "store.json").exists():
        os.replace(folder / "store.json", folder / REMOVING)
    remove_partials(folder)
    entries = {each["name"]: Block(**each) for each in info["blocks"]}
    with Progress(len(plan.blocks), "blocks", "taking videos out", total_bytes=plan.bytes) as progress:
        for name in plan.blocks:
            size = _size(folder / name)
            record = _record_of(folder, name)
            entry = entries.get(name) or Block(**record["block"])  # a block that no manifest lists has a record
            entry = _rewrite(folder, info["dim"], entry, _members(manifest, record, name), wanted)
            if name in entries:
                entries[name] = entry
            _rewrite_record(folder, record, entry, wanted)
            progress.advance(bytes=size)
    kept = {key: value for key, value in info.items() if key not in ("dim", "blocks", "tables")}
    publish_store(folder, info["dim"], kept, list(entries.values()), _without(manifest, wanted))
    (folder / REMOVING).unlink()
    return plan


def _state(folder: Path) -> tuple[dict[str, Any], pa.Table, bool]:
    """store.json, the manifest, and whether a removal was stopped here."""
    if (folder / "store.json").exists() or not (folder / REMOVING).exists():
        read_info(folder)
        store = FeatureStore.open(folder)
        (folder / REMOVING).unlink(missing_ok=True)  # all but the last step of that removal was done
        return store.info, store.manifest, False
    return read_json(folder / REMOVING), read_manifest(folder / "manifest.parquet"), True


def _names(info: dict[str, Any]) -> set[str]:
    return {each["name"] for each in info["blocks"]}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _among(manifest: pa.Table, video_ids: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(manifest.column("video_id"), pa.array(sorted(video_ids), pa.string()))


def _records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The records beside blocks. A record may be older than its block: a step of a removal."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if (folder / f"{path.stem}.safetensors").exists():
            record = read_json(path)
            if isinstance(record, dict) and {"block", "rows"} <= record.keys():
                found.append((path, record))
    return found


def _record_of(folder: Path, block: str) -> dict[str, Any]:
    path = folder / f"{Path(block).stem}.json"
    record = read_json(path) if path.exists() else None
    return record if isinstance(record, dict) and {"block", "rows"} <= record.keys() else {}


def _members(manifest: pa.Table, record: dict[str, Any], block: str) -> list[str]:
    """Ids of the videos in a block, by number, as its record or else the manifest has them."""
    if record:
        rows = [StoreRow(**row) for row in record["rows"]]
        return [row.video_id for row in sorted(rows, key=lambda row: row.row) if row.status == "ok"]
    here = manifest.filter(pc.equal(manifest.column("block").cast(pa.string()), block)).sort_by("row")
    ids: list[str] = here.column("video_id").to_pylist()
    return ids


def _rewrite(folder: Path, dim: int, entry: Block, members: list[str], wanted: Collection[str]) -> Block:
    """Write a block without the wanted videos, unless that was done; its entry in store.json."""
    path = folder / entry.name
    mapped = map_block(path, dim)
    kept = [number for number, video_id in enumerate(members) if video_id not in wanted]
    if mapped.num_videos == len(kept):
        size, frames = path.stat().st_size, len(mapped.features)
        return Block(entry.name, size, sha256_file(path), mapped.num_videos, frames)
    if mapped.num_videos != len(members):
        raise ReelkinError(
            f"{path} holds {mapped.num_videos} videos, and {len(members)} are said to be in it; copy it again, or "
            "remove it and run the command that made the store again (it keeps out what removed.json lists)"
        )
    if sha256_file(path) != entry.sha256:
        raise ReelkinError(
            f"{path} has changed since it was written; copy it again, or remove it and run the command that made the "
            "store again (it keeps out what removed.json lists)"
        )
    return write_block(path, *mapped.videos(kept), dim)


def _rewrite_record(folder: Path, record: dict[str, Any], entry: Block, wanted: Collection[str]) -> None:
    if not record:
        return
    old = sorted((StoreRow(**row) for row in record["rows"]), key=lambda row: row.row)
    number = iter(range(len(old)))
    rows = [
        asdict(removed_row(row.video_id))
        if row.video_id in wanted
        else {**asdict(row), "row": next(number) if row.status == "ok" else -1}
        for row in old
    ]
    gone = {row.video_id for row in old if row.video_id in wanted}
    made_from = {key: value for key, value in (record.get("made_from") or {}).items() if key not in gone}
    changed = {**record, "made_from": made_from, "block": asdict(entry), "rows": rows}
    publish_json(folder / f"{Path(entry.name).stem}.json", changed)


def _without(manifest: pa.Table, wanted: Collection[str]) -> pa.Table:
    """The manifest with the wanted videos' rows as rejected, and the others numbered as they lie in the new blocks."""
    gone = _among(manifest, wanted).combine_chunks()
    status = pc.if_else(gone, "rejected", manifest.column("status").cast(pa.string()))
    blank = {"reason": Reason.REMOVED.value, "detail": DETAIL, "block": "", "decoder": ""}
    columns = {name: pc.if_else(gone, text, manifest.column(name).cast(pa.string())) for name, text in blank.items()}
    columns |= {name: pc.if_else(gone, 0, manifest.column(name)) for name in ("num_frames",)}
    columns["duration_seconds"] = pc.if_else(gone, 0.0, manifest.column("duration_seconds"))
    rows, out = manifest.column("row").to_numpy().copy(), gone.to_numpy(zero_copy_only=False)
    _, block_of = np.unique(manifest.column("block").cast(pa.string()).to_numpy(), return_inverse=True)
    for block in np.unique(block_of[out & (rows >= 0)]):
        here = np.flatnonzero((block_of == block) & (rows >= 0))
        rows[here] -= np.searchsorted(np.sort(rows[here][out[here]]), rows[here])  # by the removed ones before it
    rows[out] = -1
    columns |= {"row": pa.array(rows), "status": status, "video_id": manifest.column("video_id")}
    return pa.table({name: columns[name] for name in manifest.column_names})
