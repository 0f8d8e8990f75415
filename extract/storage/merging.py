"""Several feature stores into one. Blocks are shared with the sources where the disk allows it: it takes seconds.

A block is named after its content: a source that grows, or one more source, costs only what is new.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...core.errors import ReelkinError, UsageError
from ...core.files import publishing, remove_partials
from ...core.progress import Progress
from ..running.records import difference, settings_in
from ..store import FeatureStore, publish_store
from .blocks import Block, map_block, write_block
from .removed import read_removed, removed_row
from .rows import SCHEMA, to_table

log = logging.getLogger("reelkin.extract")

PREFIX = "merged-"


@dataclass(frozen=True, eq=False)
class Part:
    """A block of the store in the making.

    Attributes:
        source: where it comes from.
        block: there.
        name: here.
        kept: numbers of the videos that are taken over, in their order; None: all of them.
        ids: of these videos.
    """

    source: FeatureStore
    block: Block
    name: str
    kept: list[int] | None
    ids: list[str]


@dataclass(frozen=True, eq=False)
class Merge:
    """What joining some stores comes to. Made by `plan_merge`, which changes nothing.

    Attributes:
        sources: the stores; of a video that several have, the first one's is taken.
        output: the new store's folder.
        parts: its blocks.
        duplicates: ids that a later source has as well.
        removed: ids that were taken out of ``output``, and stay out.
    """

    sources: Sequence[FeatureStore]
    output: Path
    parts: list[Part]
    duplicates: list[str]
    removed: frozenset[str]

    @property
    def missing(self) -> list[Part]:
        """Blocks that are not there yet."""
        return [part for part in self.parts if not (self.output / part.name).exists()]


def plan_merge(sources: Sequence[FeatureStore], output: Path) -> Merge:
    """See what joining stores comes to.

    Raises:
        UsageError: the stores' features were not made alike, or ``output`` is one of them or holds other features.
    """
    first = sources[0]
    for store in sources[1:]:
        found = difference(_made(first), _made(store))
        if found:
            raise UsageError(
                f"features: {store.path} was not made as {first.path} was ({found}); they cannot be one store"
            )
    if output.resolve() in {store.path.resolve() for store in sources}:
        raise UsageError(f"output: {output} is one of the stores to be joined; name a new folder")
    if (output / "store.json").exists():
        old = FeatureStore.open(output)
        found = difference(_made(old), _made(first))
        if found or any(not block.name.startswith(PREFIX) for block in old.blocks):
            raise UsageError(
                f"output: {output} holds features that were not joined from such stores; name a new folder"
            )
    removed = read_removed(output)
    seen: set[str] = set(removed)
    parts: list[Part] = []
    duplicates: list[str] = []
    for store in sources:
        members = store.members()
        for block in store.blocks:
            numbers = members[block.name]
            kept = {video_id: number for video_id, number in numbers.items() if video_id not in seen}
            duplicates += [video_id for video_id in numbers if video_id not in kept and video_id not in removed]
            digest = block.sha256
            if len(kept) < len(numbers):
                digest = hashlib.sha256(f"{digest} {list(kept.values())}".encode()).hexdigest()
            seen |= kept.keys()
            if kept:
                chosen = None if len(kept) == len(numbers) else list(kept.values())
                parts.append(Part(store, block, f"{PREFIX}{digest[:24]}.safetensors", chosen, list(kept)))
    return Merge(sources, output, parts, duplicates, removed)


def merge(job: Merge, *, skip_duplicates: bool = False) -> FeatureStore:
    """Join stores. A merge that was stopped goes on with the same call.

    Raises:
        UsageError: a video is in several stores, unless ``skip_duplicates``.
        ReelkinError: a block has changed, or the disk is full.
    """
    if job.duplicates and not skip_duplicates:
        raise UsageError(
            f"features: {len(job.duplicates)} videos are in more than one of the stores ({job.duplicates[0]!r} ...); "
            "pass --skip-duplicates to take the first store's"
        )
    output, first = job.output, job.sources[0]
    output.mkdir(parents=True, exist_ok=True)
    remove_partials(output)
    if job.missing:
        (output / "store.json").unlink(missing_ok=True)
    blocks = []
    with Progress(len(job.parts), "blocks", "joining", total_bytes=sum(part.block.bytes for part in job.parts)) as bar:
        for part in job.parts:
            blocks.append(_take(part, output, first.dim))
            bar.advance(bytes=part.block.bytes)
    pca: dict[str, Any] | None = first.info.get("pca")
    if pca:
        with publishing(output / pca["file"]) as temporary:
            shutil.copyfile(first.path / pca["file"], temporary)
    keys = ("encoder", "sampling", "decoder")
    info = {**{key: first.info.get(key) for key in keys}, "pca": pca}
    info["merged"] = [
        {"videos": len(store), "blocks": [block.sha256 for block in store.blocks]} for store in job.sources
    ]
    publish_store(output, first.dim, info, blocks, _manifest(job))
    listed = {block.name for block in blocks}
    for path in output.glob(f"{PREFIX}*.safetensors"):
        if path.name not in listed:
            path.unlink()
    return FeatureStore.open(output)


def _made(store: FeatureStore) -> dict[str, Any]:
    """What must be the same; not which decoder made the frames, which every row says."""
    settings = settings_in(store.info)
    del settings["decoder"]
    return {**settings, "dim": store.dim}


def _take(part: Part, output: Path, dim: int) -> Block:
    """Bring a block over; its entry in store.json."""
    source, target = part.source.path / part.block.name, output / part.name
    if part.kept is not None:
        return write_block(target, *map_block(source, dim).videos(part.kept), dim)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            with publishing(target) as temporary:
                shutil.copyfile(source, temporary)
    if target.stat().st_size != part.block.bytes:
        raise ReelkinError(f"{target} is not {source}; remove it, and run the same command again")
    return Block(part.name, part.block.bytes, part.block.sha256, part.block.num_videos, part.block.num_frames)


def _manifest(job: Merge) -> pa.Table:
    """Rows of the videos in the order of the sources, then those without features in any of them."""
    tables = []
    accepted: set[str] = set()
    for store in job.sources:
        parts = [part for part in job.parts if part.source is store]
        place = {video_id: (part.name, row) for part in parts for row, video_id in enumerate(part.ids)}
        rows = store.manifest.cast(SCHEMA)
        rows = rows.filter(pc.is_in(rows.column("video_id"), pa.array(list(place), pa.string())))
        rows = rows.filter(pc.equal(rows.column("status"), "ok"))
        places = [place[video_id] for video_id in rows.column("video_id").to_pylist()]
        rows = rows.set_column(4, SCHEMA.field("block"), pa.array([name for name, _ in places], pa.string()))
        tables.append(rows.set_column(5, SCHEMA.field("row"), pa.array(np.array([row for _, row in places], np.int64))))
        accepted |= place.keys()
    rejected = {row.video_id: row for store in reversed(job.sources) for row in store.rejects}
    rejected |= {video_id: removed_row(video_id) for video_id in job.removed}
    left = [row for video_id, row in rejected.items() if video_id not in accepted]
    return pa.concat_tables([*tables, to_table(left)])
