"""Shards in, feature store out; the unit of work, of parallelism and of resume is a shard.

Each shard becomes one block of the store plus a small record beside it (``features-000000.json``), published after the
block: it holds the rows of the shard's videos and what they were made from. A rerun keeps every block whose record
still fits. Rank 0 joins the records into manifest.parquet and store.json, last.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.engine import Engine
from ..core.errors import DataError, ReelkinError, UsageError
from ..core.files import publish_json, publishing, read_json, remove_partials, sha256_file
from ..core.progress import Progress
from ..core.seeds import seed_of
from ..shards.manifest import ClipRow, VideoRow
from ..shards.reader import ShardSet
from .describe import Described, Describer, join_clips
from .prefetch import Source
from .store import Block, FeatureStore, StoreRow, publish_store, write_block

log = logging.getLogger("reelkin.extract")

RECORD_FORMAT, RECORD_VERSION = "reelkin-features-record", 1
DECODER = "pyav"
PCA_FILE = "pca.safetensors"
"""The store keeps its own copy of the PCA: queries need it."""

SHARE_SECONDS = 7 * 86400.0
"""Shares of ranks may end this far apart: the deadline of collectives does not apply to the work itself."""


@dataclass(frozen=True)
class ShardWork:
    """What one shard holds for the store.

    Attributes:
        shard: the tar's file name.
        block: the block's file name.
        videos: its accepted videos, in tar order.
        clips: of each video, by start.
        bytes: of all its clips.
        fingerprint: changes when the clips do.
    """

    shard: str
    block: str
    videos: tuple[VideoRow, ...]
    clips: Mapping[str, tuple[ClipRow, ...]]
    bytes: int
    fingerprint: str

    @property
    def record(self) -> str:
        """File name of the record beside the block."""
        return Path(self.block).stem + ".json"


def list_work(shards: ShardSet, videos: Sequence[VideoRow]) -> list[ShardWork]:
    """One entry per shard that holds accepted videos among ``videos``.

    Raises:
        ReelkinError: the clips of a video lie in several shards.
    """
    wanted = {video.video_id: video for video in videos if video.status == "ok"}
    home: dict[str, str] = {}
    work = []
    for shard in shards.shard_names:
        clips: dict[str, list[ClipRow]] = {}
        for clip in shards.clips_of(shard):
            if clip.video_id not in wanted:
                continue
            if home.setdefault(clip.video_id, shard) != shard:
                raise ReelkinError(
                    f"the clips of {clip.video_id!r} lie in {home[clip.video_id]} and in {shard}; a video must be in "
                    "one shard: build the shards again"
                )
            clips.setdefault(clip.video_id, []).append(clip)
        if not clips:
            continue
        ordered = {name: tuple(sorted(rows, key=lambda row: row.start_seconds)) for name, rows in clips.items()}
        parts = [part for rows in ordered.values() for row in rows for part in (row.video_id, row.key, row.sha256)]
        work.append(
            ShardWork(
                shard,
                shard.replace("clips-", "features-").removesuffix(".tar") + ".safetensors",
                tuple(wanted[name] for name in clips),
                ordered,
                sum(row.bytes for rows in ordered.values() for row in rows),
                f"{seed_of(*parts):016x}",
            )
        )
    missing = sorted(wanted.keys() - home.keys())
    if missing:
        raise ReelkinError(
            f"{len(missing)} videos of the manifest are in no shard ({missing[0]!r}); build the shards again"
        )
    return work


def share_out(work: Sequence[ShardWork], size: int) -> list[list[ShardWork]]:
    """Divide shards among ranks: largest first, each to the rank with the fewest bytes so far. Shares are in order."""
    shares: list[list[ShardWork]] = [[] for _ in range(size)]
    load = [0] * size
    for item in sorted(work, key=lambda item: (-item.bytes, item.shard)):
        rank = load.index(min(load))
        shares[rank].append(item)
        load[rank] += item.bytes
    return [sorted(share, key=lambda item: item.shard) for share in shares]


def settings_of(encoder_info: Mapping[str, Any], pca_sha256: str | None, fps: float) -> dict[str, Any]:
    """What decides the features: equal settings, comparable features."""
    encoder = {key: value for key, value in encoder_info.items() if key != "weights_path"}
    return {"encoder": encoder, "pca_sha256": pca_sha256, "fps": fps, "decoder": DECODER}


def refuse_other_store(output: Path, settings: dict[str, Any]) -> None:
    """Raise UsageError when ``output`` holds a finished store with other settings."""
    if not (output / "store.json").exists():
        return
    info = read_json(output / "store.json")
    pca, sampling = info.get("pca") or {}, info.get("sampling") or {}
    _refuse(output, settings_of(info.get("encoder") or {}, pca.get("sha256"), sampling.get("fps", 0.0)), settings)


def _refuse(output: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    if found != settings:
        raise UsageError(
            f"{output} holds features with other settings ({_difference(found, settings)}); choose another --output, "
            "or pass --rebuild to replace them"
        )


def extract_store(
    shards: ShardSet,
    output: str | Path,
    describer: Describer,
    engine: Engine,
    *,
    pca_path: Path | None = None,
    limit: int | None = None,
    rebuild: bool = False,
) -> FeatureStore:
    """Extract the features of all accepted videos of ``shards``.

    Every rank calls it; each works on its share of the shards. Work already published with the same settings is kept.
    A video's features do not depend on the ranks, on the other shards, or on rejected neighbours, except that torch may
    round differently for another batch size or number of threads (below float16's resolution in practice).

    Args:
        shards: opened shards.
        output: folder of the store, shared by all ranks.
        describer: encoder, PCA and sampling.
        engine: of this run.
        pca_path: file of the describer's PCA, copied into the store.
        limit: only the first ``limit`` rows of the shards' manifest.
        rebuild: replace a store with other settings instead of refusing.

    Returns:
        The opened store, on every rank. Videos that the shards rejected are rejected rows in it too.

    Raises:
        UsageError: the folder holds features with other settings and ``rebuild`` is not set.
    """
    output = Path(output)
    videos = shards.videos[:limit]
    work = list_work(shards, videos)
    pca_sha256 = sha256_file(pca_path) if pca_path else None
    settings = settings_of(describer.encoder.info, pca_sha256, describer.fps)
    # Rank 0 looks at the disk once, so that all ranks share out the same list.
    problem, todo_names = "", []
    if engine.is_main:
        try:
            todo_names = _unfinished(output, work, settings, rebuild)
        except UsageError as error:
            problem = str(error)
    problem, todo_names = engine.broadcast_object([problem, todo_names], "work list")
    if problem:
        raise UsageError(problem)
    todo = [item for item in work if item.shard in set(todo_names)]
    share = share_out(todo, engine.size)[engine.rank]
    if engine.is_main and len(todo) < len(work):
        log.info("%d of %d shards are already extracted", len(work) - len(todo), len(work))
    with engine.extend_deadline(SHARE_SECONDS):
        label = "extracting" if engine.size == 1 else f"extracting (rank 0 of {engine.size})"
        with Progress(sum(len(item.videos) for item in share), "videos", label, engine.is_main) as progress:
            for item in share:
                _extract_shard(shards, item, output, describer, settings, progress)
    with engine.extend_deadline(SHARE_SECONDS):
        if engine.is_main:
            _publish(shards, output, work, videos, describer, settings, pca_path, limit)
    return FeatureStore.open(output)


def _unfinished(output: Path, work: Sequence[ShardWork], settings: dict[str, Any], rebuild: bool) -> list[str]:
    """Shards to do. Removes store.json when there are any: a store in the making is no store."""
    if not rebuild:
        refuse_other_store(output, settings)
    todo = []
    for item in work:
        record = _read_record(output / item.record)
        if record is None:
            todo.append(item.shard)
            continue
        if not rebuild:
            _refuse(output, record["settings"], settings)
        file = output / item.block
        whole = file.exists() and file.stat().st_size == record["block"]["bytes"]
        if record["settings"] != settings or record["fingerprint"] != item.fingerprint or not whole:
            todo.append(item.shard)
    remove_partials(output)
    if todo:
        (output / "store.json").unlink(missing_ok=True)
    return todo


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    record = read_json(path)
    if (record.get("format"), record.get("version")) != (RECORD_FORMAT, RECORD_VERSION):
        return None
    return record


def _difference(old: Any, new: Any, name: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        parts = (_difference(old.get(key), new.get(key), f"{name}.{key}" if name else key) for key in {**old, **new})
        return ", ".join(part for part in parts if part)
    return "" if old == new else f"{name} was {old!r}, is {new!r} now"


def _extract_shard(
    shards: ShardSet, item: ShardWork, output: Path, describer: Describer, settings: dict[str, Any], progress: Progress
) -> None:
    rows: list[StoreRow] = []
    features: list[np.ndarray] = []
    times: list[np.ndarray] = []
    for video, parts in _by_video(describer, shards, item):
        starts = [clip.start_seconds for clip in item.clips[video.video_id]]
        try:
            matrix, seconds = join_clips(parts, starts)
        except DataError as error:
            log.warning("%s is rejected: %s", video.video_id, error)
            rows.append(StoreRow.rejected(video.video_id, error.reason, str(error), video.duration_seconds))
            progress.advance(rejects=1)
            continue
        rows.append(
            StoreRow(
                video.video_id,
                block=item.block,
                row=len(features),
                num_frames=len(matrix),
                duration_seconds=video.duration_seconds,
                decoder=DECODER,
            )
        )
        features.append(matrix)
        times.append(seconds)
        progress.advance(note=f"{describer.frames_encoded} frames")
    # A record must never stand beside a block that it does not speak of.
    (output / item.record).unlink(missing_ok=True)
    block = write_block(output / item.block, features, times, describer.dim)
    record = {"format": RECORD_FORMAT, "version": RECORD_VERSION, "settings": settings, "fingerprint": item.fingerprint}
    publish_json(output / item.record, {**record, "block": asdict(block), "rows": [asdict(row) for row in rows]})


def _by_video(describer: Describer, shards: ShardSet, item: ShardWork) -> Iterator[tuple[VideoRow, list[Described]]]:
    """The described clips of each video of a shard, in order of time, when its last one is done."""
    video_of = {clip.key: video for video in item.videos for clip in item.clips[video.video_id]}
    waiting: dict[str, dict[str, Described]] = {video.video_id: {} for video in item.videos}
    read = (clip for clip in shards.read_clips(item.shard) if clip.key in video_of)
    sources = (Source(clip.key, clip.data, clip.start_seconds) for clip in read)
    for described in describer.describe(sources):
        video = video_of[described.key]
        found = waiting[video.video_id]
        found[described.key] = described
        clips = item.clips[video.video_id]
        if len(found) == len(clips):
            del waiting[video.video_id]
            yield video, [found[clip.key] for clip in clips]


def _publish(
    shards: ShardSet,
    output: Path,
    work: Sequence[ShardWork],
    videos: Sequence[VideoRow],
    describer: Describer,
    settings: dict[str, Any],
    pca_path: Path | None,
    limit: int | None,
) -> None:
    blocks: list[Block] = []
    row_of: dict[str, StoreRow] = {}
    for item in work:
        record = _read_record(output / item.record)
        if record is None or record["settings"] != settings or record["fingerprint"] != item.fingerprint:
            raise ReelkinError(f"{output / item.record} is not there; is {output} shared by all ranks?")
        blocks.append(Block(**record["block"]))
        row_of.update({row["video_id"]: StoreRow(**row) for row in record["rows"]})
    rows = [
        # a rejected duplicate bears the id of an accepted video
        row_of[video.video_id]
        if video.status == "ok"
        else StoreRow.rejected(video.video_id, video.reason, video.detail, video.duration_seconds)
        for video in videos
    ]
    pca = None
    if describer.pca is not None and pca_path is not None:
        with publishing(output / PCA_FILE) as temporary:
            shutil.copyfile(pca_path, temporary)
        pca = {"file": PCA_FILE, "sha256": settings["pca_sha256"], "dim": describer.pca.dim, **describer.pca.info}
    info: dict[str, Any] = {
        "encoder": describer.encoder.info,
        "pca": pca,
        "sampling": {"fps": describer.fps},
        "decoder": DECODER,
        "shards_sha256": shards.sha256,
    }
    if limit is not None:
        info["limit"] = limit
    publish_store(output, describer.dim, info, blocks, rows)
