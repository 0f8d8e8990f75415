"""PCA over stores and shards: fitting on a sample of frames, and applying it to a store without decoding again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.engine import Engine
from ..core.errors import ReelkinError, UsageError
from ..core.files import publishing, sha256_file
from ..core.progress import Progress
from ..core.seeds import generator
from ..shards.manifest import OK
from ..shards.reader import ShardSet
from .claims import share_out
from .decoding.tasks import Source
from .describe import COMPARED, Describer
from .pca import PCA, CovarianceSum
from .pipeline import PCA_FILE, SHARE_SECONDS
from .records import refuse_other_store, settings_of
from .store import Block, FeatureStore, StoreRow, publish_store, write_block
from .work import list_work

log = logging.getLogger("reelkin.extract")

FRAMES_PER_COMPONENT = 10
"""With fewer, a warning: the smallest kept variances are then underestimated, and whitening divides by them."""


def draw_frames(video_id: str, num_frames: int, wanted: int, seed: int) -> np.ndarray:
    """Ascending int64 indices of ``wanted`` frames out of ``num_frames`` (all, if there are fewer), without repetition.

    The draw depends on the seed and the video alone: not on ranks, nor on the other videos.
    """
    if num_frames <= wanted:
        return np.arange(num_frames)
    return np.sort(generator("pca-frames", seed, video_id).choice(num_frames, wanted, replace=False))


def fit_on_store(
    store: FeatureStore,
    num_components: int,
    engine: Engine,
    *,
    frames_per_video: int = 10,
    seed: int = 0,
    whiten: bool = True,
    limit: int | None = None,
    only: Collection[str] | None = None,
) -> PCA:
    """Fit a PCA on a sample of a store's frames; the ranks share the videos, and all return the same PCA.

    Args:
        only: ids of the videos to sample; None: all. ``limit`` counts among these.

    Raises:
        UsageError: the store's features went through a PCA already, or none of ``only`` is in it.
        ReelkinError: fewer directions than components.
    """
    if store.info.get("pca"):
        raise UsageError(f"{store.path} was made with a PCA; fit on a store without one")
    total = CovarianceSum(store.dim)
    video_ids = _chosen(store.video_ids, only, store.path)[:limit]
    for video_id in video_ids[engine.rank :: engine.size]:
        picked = draw_frames(video_id, store.num_frames(video_id), frames_per_video, seed)
        total.add(store.features(video_id)[picked])
    info = _record(store.info.get("encoder") or {}, len(video_ids), frames_per_video, seed, store.info["sampling"])
    return _solve(total, engine, num_components, whiten, info)


def fit_on_shards(
    shards: ShardSet,
    describer: Describer,
    num_components: int,
    engine: Engine,
    *,
    frames_per_video: int = 10,
    seed: int = 0,
    whiten: bool = True,
    limit: int | None = None,
    only: Collection[str] | None = None,
) -> PCA:
    """Like `fit_on_store`, on frames that are decoded and encoded for it. Of a video cut into several clips, frames are
    drawn from each clip in equal number. Damaged clips are left out and counted in a warning."""
    if describer.pca is not None:
        raise ValueError("the describer must be without a PCA")
    accepted = {video.video_id: video for video in shards.videos if video.status == OK}
    chosen = [accepted[name] for name in _chosen(list(accepted), only, shards.folder)[:limit]]
    work = list_work(shards, chosen, describer.sampling)
    share = share_out(work, engine.size)[engine.rank]
    clips_of = [{clip.key: clip for rows in piece.clips.values() for clip in rows} for piece in share]

    def pick(source: Source, num_frames: int) -> np.ndarray:
        clip = clips_of[source.group][source.key]
        num_clips = len(share[source.group].clips[clip.video_id])
        name = clip.video_id if num_clips == 1 else f"{clip.video_id}@{clip.start_seconds:.3f}"
        return draw_frames(name, num_frames, -(-frames_per_video // num_clips), seed)

    sources = (source for group, piece in enumerate(share) for _, source in piece.sources(shards.folder, group))
    total = CovarianceSum(describer.dim)
    damaged = 0
    with (
        engine.extend_deadline(SHARE_SECONDS),
        Progress(sum(map(len, clips_of)), "clips", "sampling frames", engine.is_main) as progress,
    ):
        for described in describer.describe(sources, pick):
            damaged += described.error is not None
            if described.error is None and np.isfinite(described.features).all():
                total.add(described.features)
            progress.advance(reason=described.error.reason if described.error else "")
    if damaged:
        log.warning("%d damaged clips were left out", damaged)
    num_videos = sum(len(piece.videos) for piece in work)
    info = _record(describer.encoder.info, num_videos, frames_per_video, seed, describer.sampling.as_dict())
    return _solve(total, engine, num_components, whiten, info)


def _chosen(video_ids: Sequence[str], only: Collection[str] | None, where: Path) -> list[str]:
    if only is None:
        return list(video_ids)
    wanted = set(only)
    found = [video_id for video_id in video_ids if video_id in wanted]
    if not found:
        raise UsageError(f"video_ids: none of the {len(wanted)} named videos is in {where} ({sorted(wanted)[0]!r} ...)")
    if len(found) < len(wanted):
        log.warning("%d of %d named videos are not in %s", len(wanted) - len(found), len(wanted), where)
    return found


def _record(
    encoder: dict[str, Any], num_videos: int, frames_per_video: int, seed: int, sampling: dict[str, Any]
) -> dict[str, Any]:
    made = {key: value for key, value in encoder.items() if key != "weights_path"}
    return {
        "num_videos": num_videos,
        "frames_per_video": frames_per_video,
        "seed": seed,
        "sampling": sampling,
        "encoder": made,
    }


def _solve(total: CovarianceSum, engine: Engine, num_components: int, whiten: bool, info: dict[str, Any]) -> PCA:
    total.combine(engine)
    # One rank solves: another machine's library may turn eigenvectors of equal variance differently.
    solved: dict[str, Any] = {"problem": ""}
    pca = None
    with engine.extend_deadline(3600):
        if engine.is_main:
            try:
                pca = total.solve(num_components, whiten=whiten, info=info)
                solved["info"] = pca.info
                if whiten and total.count < FRAMES_PER_COMPONENT * num_components:
                    log.warning(
                        "%d frames for %d components: with fewer than about %d frames a component, whitening amplifies "
                        "noise; give more frames or keep fewer components",
                        *(total.count, num_components, FRAMES_PER_COMPONENT),
                    )
            except ReelkinError as error:
                solved["problem"] = str(error)
    solved = engine.broadcast_object(solved, "PCA outcome")
    if solved["problem"]:
        raise ReelkinError(solved["problem"])
    dim = len(total.mean)
    shapes = {"mean": (dim,), "components": (num_components, dim), "variances": (num_components,)}
    tensors = {
        name: engine.broadcast_(
            getattr(pca, name) if pca is not None else total.mean.new_zeros(shape).float(), f"PCA {name}"
        )
        for name, shape in shapes.items()
    }
    return PCA(tensors["mean"], tensors["components"], tensors["variances"], whiten, solved["info"])


def apply_to_store(
    store: FeatureStore,
    pca_path: Path,
    output: Path,
    engine: Engine,
    *,
    rebuild: bool = False,
    limit: int | None = None,
) -> FeatureStore:
    """Write a store whose features are ``pca.apply`` of another store's, block by block; the ranks share the blocks.

    The features differ from those extracted with the PCA at once by the float16 rounding of the first store.

    Raises:
        UsageError: the store went through a PCA already, the PCA is for other features, or ``output`` holds others.
    """
    if store.info.get("pca"):
        raise UsageError(f"{store.path} was made with a PCA already")
    pca = PCA.load(pca_path)
    encoder = store.info.get("encoder") or {}
    fitted = pca.info.get("encoder") or {}
    for key in COMPARED:
        if key in fitted and key in encoder and fitted[key] != encoder[key]:
            raise UsageError(f"{pca_path} was fitted on other features: {key} {fitted[key]!r}, here {encoder[key]!r}")
    if pca.input_dim != store.dim:
        raise UsageError(f"{pca_path} takes {pca.input_dim} dimensions, {store.path} has {store.dim}")
    sampling, decoder = store.info.get("sampling") or {}, store.info.get("decoder") or ""
    if not rebuild:
        refuse_other_store(output, settings_of(encoder, sha256_file(pca_path), sampling, decoder))
    engine.barrier("PCA checked")
    if engine.is_main:
        (output / "store.json").unlink(missing_ok=True)
    chosen = set(store.video_ids[:limit])
    members: dict[str, list[str]] = {block["name"]: [] for block in store.info["blocks"]}
    for video_id in store.video_ids:
        if video_id in chosen:
            members[store.row(video_id).block].append(video_id)
    made: dict[str, Any] = {}
    own = list(members)[engine.rank :: engine.size]
    with (
        engine.extend_deadline(SHARE_SECONDS),
        Progress(sum(len(members[name]) for name in own), "videos", "applying the PCA", engine.is_main) as progress,
    ):
        for name in own:
            features = [pca.apply(store.features(video_id)) for video_id in members[name]]
            times = [store.times(video_id) for video_id in members[name]]
            made[name] = asdict(write_block(output / name, features, times, pca.dim))
            progress.advance(len(members[name]))
    gathered: dict[str, Any] = {}
    for part in engine.all_gather_object(made, "blocks"):
        gathered.update(part)
    with engine.extend_deadline(3600):
        if engine.is_main:
            _publish_applied(store, pca, pca_path, output, [Block(**gathered[name]) for name in members], members)
    return FeatureStore.open(output)


def _publish_applied(
    store: FeatureStore, pca: PCA, pca_path: Path, output: Path, blocks: list[Block], members: dict[str, list[str]]
) -> None:
    with publishing(output / PCA_FILE) as temporary:
        shutil.copyfile(pca_path, temporary)
    number = {video_id: index for ids in members.values() for index, video_id in enumerate(ids)}
    rows: list[StoreRow] = list(_renumbered(store, number))
    info = {key: store.info[key] for key in store.info if key not in ("format", "version", "dim", "blocks", "tables")}
    info["pca"] = {"file": PCA_FILE, "sha256": sha256_file(pca_path), "dim": pca.dim, **pca.info}
    publish_store(output, pca.dim, info, blocks, rows)


def _renumbered(store: FeatureStore, number: dict[str, int]) -> Iterator[StoreRow]:
    yield from store.rejects
    for video_id in store.video_ids:
        if video_id in number:
            yield replace(store.row(video_id), row=number[video_id])
