"""Shards in, feature store out. A piece of a shard becomes one block; `work` says what there is, `claims` who does it.

A block is published before its record, records before manifest.parquet, and store.json last. A rerun keeps every block
whose record fits, and moves videos that are still wanted over from those that do not: it decodes what is missing only.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ...core.alone import alone_in
from ...core.engine import Engine
from ...core.errors import ReelkinError
from ...core.files import publishing, remove_partials, sha256_file
from ...shards.manifest import OK
from ..describe import Describer
from ..store import Block, FeatureStore, StoreRow, publish_store
from .claims import open_claims
from .job import Job
from .records import Record, read_record, record_path, refuse_other_store, refuse_others, settings_of
from .share import Share, unlink
from .work import Piece, list_work

log = logging.getLogger("reelkin.extract")

PCA_FILE = "pca.safetensors"
"""The store keeps its own copy of the PCA: queries need it."""

SHARE_SECONDS = 7 * 86400.0
"""Ranks may end this far apart: the deadline of collectives does not apply to the work itself."""


def extract_store(job: Job, describer: Describer, engine: Engine) -> FeatureStore:
    """Extract the features of all accepted videos. Every rank calls it.

    A video's features do not depend on the ranks, nor on other pieces; within a piece neighbours share batches, where
    torch may round differently for another batch size or number of threads (below float16's resolution in practice).

    Returns:
        The opened store, on every rank. Videos that the shards rejected are rejected rows in it too.

    Raises:
        UsageError: the folder holds features with other settings and ``rebuild`` is not set.
        ReelkinError: a shard is not as it was written, the disk is full, another command is at work in the folder.
    """
    settings = settings_of(
        describer.encoder.info,
        sha256_file(job.pca_path) if job.pca_path else None,
        describer.sampling.as_dict(),
        describer.decoder,
    )
    work = list_work(job.shards, job.videos, describer.sampling)
    with _alone(job.output, engine):
        # Rank 0 looks at the disk once, so that all ranks share out the same list.
        names = set(engine.on_main(lambda: _unfinished(job, work, settings), "work list"))
        todo = [piece for piece in work if piece.block in names]
        if engine.is_main and len(todo) < len(work):
            log.info("%d of %d blocks are already extracted", len(work) - len(todo), len(work))
        claims = open_claims(job.output, todo, engine)
        with engine.extend_deadline(SHARE_SECONDS):
            Share(job, settings, describer, engine, claims).work(todo)
        with engine.extend_deadline(SHARE_SECONDS):
            if engine.is_main:
                _publish(job, work, describer, settings)
                claims.close()
    return FeatureStore.open(job.output)


def _alone(output: Path, engine: Engine) -> AbstractContextManager[None]:
    return alone_in(output) if engine.is_main else nullcontext()


def _unfinished(job: Job, work: Sequence[Piece], settings: Mapping[str, Any]) -> list[str]:
    """Blocks to make. Removes store.json when there are any: a store in the making is no store."""
    if not job.rebuild:
        refuse_other_store(job.output, settings)
    todo = []
    for piece in work:
        record = read_record(job.output, piece.block)
        if record is not None and not job.rebuild:
            refuse_others(job.output, record.settings, settings)
        if record is None or not _fits(record, piece, settings, job.retry):
            todo.append(piece.block)
    remove_partials(job.output)
    if todo:
        unlink(job.output / "store.json")
    return todo


def _fits(record: Record, piece: Piece, settings: Mapping[str, Any], retry: Collection[str]) -> bool:
    return (
        record.settings == settings
        and record.made_from == piece.wanted
        and not any(row.reason in retry for row in record.rows if row.reason)
    )


def _publish(job: Job, work: Sequence[Piece], describer: Describer, settings: Mapping[str, Any]) -> None:
    blocks: list[Block] = []
    row_of: dict[str, StoreRow] = {}
    for piece in work:
        record = read_record(job.output, piece.block)
        if record is None or not _fits(record, piece, settings, ()):
            raise ReelkinError(f"{job.output / piece.block} is not there; is {job.output} shared by all ranks?")
        blocks.append(record.block)
        row_of.update({row.video_id: row for row in record.rows})
    rows = [
        # a rejected duplicate bears the id of an accepted video
        row_of[video.video_id]
        if video.status == OK
        else StoreRow.rejected(video.video_id, video.reason, video.detail, video.duration_seconds)
        for video in job.videos
    ]
    pca = None
    if describer.pca is not None and job.pca_path is not None:
        with publishing(job.output / PCA_FILE) as temporary:
            shutil.copyfile(job.pca_path, temporary)
        pca = {"file": PCA_FILE, "sha256": settings["pca_sha256"], "dim": describer.pca.dim, **describer.pca.info}
    info: dict[str, Any] = {
        "encoder": describer.encoder.info,
        "pca": pca,
        "sampling": settings["sampling"],
        "decoder": settings["decoder"],
        "shards_sha256": job.shards.sha256,
    }
    if job.limit is not None:
        info["limit"] = job.limit
    publish_store(job.output, describer.dim, info, blocks, rows)
    _remove_strays(job, describer)


def _remove_strays(job: Job, describer: Describer) -> None:
    """Blocks that no piece of the shards needs any more, whatever the limit: their videos were taken down."""
    needed = {piece.block for piece in list_work(job.shards, job.shards.videos, describer.sampling)}
    for path in job.output.glob("features-*.safetensors"):
        if path.name not in needed:
            unlink(record_path(job.output, path.name))
            unlink(path)
