"""Fitting a PCA on a sample of the frames of a store or of shards, over any number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.engine import Engine
from ...core.errors import ReelkinError, UsageError
from ...core.progress import Progress
from ...core.seeds import generator
from ...shards.manifest import OK
from ...shards.reader import ShardSet
from ..decoding.tasks import Source
from ..describe import Describer
from ..pca import PCA, CovarianceSum
from ..running.claims import share_out
from ..running.pipeline import SHARE_SECONDS
from ..running.work import list_work
from ..store import FeatureStore

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
        total.add(store.features(video_id, copy=False)[picked])
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
            if described.error is None:
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
