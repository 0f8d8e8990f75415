"""The methods that results compare: a model's similarities, and the trivial solutions that it has to beat.

Names on the command line: ``mean-pool``, ``mean-pool-frame``, ``pixels``, ``chance``, and ``NAME-video``,
``NAME-frame``, ``NAME-symmetric`` where NAME is the model's aggregator (``tca``) or ``model``, or ``untrained`` for the
same aggregator with the weights that training would start from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.devices import usable_device
from ..core.errors import DataError, ReelkinError, UsageError
from ..core.progress import Progress
from ..core.seeds import seed_of
from ..search.similarity import chamfer_matrix, cosine, unit_rows
from ..train.data.sources import FeatureSource
from ..train.embed import embed_frames, embed_videos, mean_pooled
from .rankings import Method

if TYPE_CHECKING:
    from ..shards.reader import ShardSet

THUMBNAIL = 32
"""Side of the grey thumbnails, in pixels."""
LEVELS = {
    "video": "cosine of video embeddings",
    "frame": "chamfer: mean over the query's frames of the best match among the target's",
    "symmetric": "chamfer, averaged over both directions",
}


def build_methods(
    names: Sequence[str],
    source: FeatureSource,
    ids: Sequence[str],
    *,
    model: nn.Module | None = None,
    model_name: str = "model",
    shards: ShardSet | None = None,
    max_memory: float = 8e9,
    device: torch.device | str = "cpu",
) -> list[Method]:
    """Methods by name, in order, without repeats; videos are embedded once, here.

    Args:
        names: as listed in this module.
        source: frame features.
        ids: every video that any task names.
        model: needed by the model's methods.
        model_name: what they are called ("tca").
        shards: needed by ``pixels``.
        max_memory: bound in bytes on frame embeddings held at once.
        device: where videos are embedded and compared.

    Raises:
        UsageError: an unknown name, or one that needs a model or shards which are not given; there is no such device.
        ReelkinError: the frame embeddings would not fit ``max_memory``.
    """
    maker = _Maker(source, ids, model, model_name, shards, max_memory, usable_device(device))
    built = [maker.make(name) for name in names]
    return list({method.name: method for method in built}.values())


@dataclasses.dataclass
class _Maker:
    """Makes methods; what several of them need is computed once."""

    source: FeatureSource
    ids: Sequence[str]
    model: nn.Module | None
    model_name: str
    shards: ShardSet | None
    max_memory: float
    device: torch.device
    models: dict[str, nn.Module] = dataclasses.field(default_factory=dict)
    frames: dict[str, Sequence[NDArray[np.floating]]] = dataclasses.field(default_factory=dict)

    def make(self, name: str) -> Method:
        """The method of this name. Raises UsageError."""
        owner, _, level = name.rpartition("-")
        owner = self.model_name if owner == "model" else owner
        if name == "chance":
            return chance()
        if name == "mean-pool":
            rows = mean_pooled(self.source, self.ids, device=self.device)
            text = "mean of the frame features, cosine; no model"
            return from_embeddings(name, text, self.ids, rows, trivial=True, device=self.device)
        if name == "mean-pool-frame":
            _check_memory(self.source, self.ids, self.max_memory)
            own = [unit_rows(self.source.features(video_id)).astype(np.float16) for video_id in self.ids]
            text = "chamfer over the frame features themselves; no model"
            return from_frames(name, text, self.ids, own, symmetric=False, trivial=True, device=self.device)
        if name == "pixels":
            if self.shards is None:
                raise UsageError("the method pixels reads the videos themselves; give --shards, or leave it out")
            return pixels(self.shards, self.ids)
        if level in LEVELS and owner in (self.model_name, "untrained"):
            return self._with_model(owner, level)
        raise UsageError(
            f"unknown method {name!r}; known: mean-pool, mean-pool-frame, pixels, chance and, for this model, "
            + ", ".join(f"{known}-{level}" for known in (self.model_name, "untrained") for level in LEVELS)
        )

    def _with_model(self, owner: str, level: str) -> Method:
        name, trivial = f"{owner}-{level}", owner == "untrained"
        if self.model is None:
            raise UsageError(f"the method {name} needs a model; give --model or --index, or leave it out")
        if owner not in self.models:
            self.models[owner] = untrained(self.model) if trivial else self.model
        text = f"{f'untrained {self.model_name}' if trivial else self.model_name} model, {LEVELS[level]}"
        if level == "video":
            rows = embed_videos(self.models[owner], self.source, self.ids, device=self.device)
            return from_embeddings(name, text, self.ids, rows, trivial=trivial, device=self.device)
        _check_memory(self.source, self.ids, self.max_memory)
        if owner not in self.frames:
            self.frames[owner] = embed_frames(self.models[owner], self.source, self.ids, device=self.device)
        own, symmetric = self.frames[owner], level == "symmetric"
        return from_frames(name, text, self.ids, own, symmetric=symmetric, trivial=trivial, device=self.device)


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """The aggregator of a model with the weights that training would start from."""
    from ..train.models.aggregators import build_aggregator

    config = dataclasses.asdict(getattr(model, "config"))  # noqa: B009 - nn.Module does not declare it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("untrained", seed))
        return build_aggregator(str(getattr(model, "name")), config).eval()  # noqa: B009


def from_embeddings(
    name: str,
    description: str,
    ids: Sequence[str],
    embeddings: NDArray[np.floating],
    *,
    trivial: bool = False,
    device: torch.device | str = "cpu",
) -> Method:
    """Cosine over video embeddings [V, D], rows in the order of ``ids``."""
    row_of = {video_id: row for row, video_id in enumerate(ids)}

    def scores(queries: Sequence[str], database: Sequence[str]) -> NDArray[np.floating]:
        of_queries, of_database = ([row_of[video_id] for video_id in each] for each in (queries, database))
        return cosine(embeddings[of_queries], embeddings[of_database], device=device)

    return Method(name, description, scores, trivial)


def from_frames(
    name: str,
    description: str,
    ids: Sequence[str],
    frames: Sequence[NDArray[np.floating]],
    *,
    symmetric: bool,
    trivial: bool = False,
    device: torch.device | str = "cpu",
) -> Method:
    """Chamfer similarity over frame embeddings, one [T, D] per id."""
    row_of = {video_id: row for row, video_id in enumerate(ids)}

    def scores(queries: Sequence[str], database: Sequence[str]) -> NDArray[np.floating]:
        of_queries, of_database = ([frames[row_of[video_id]] for video_id in each] for each in (queries, database))
        return chamfer_matrix(of_queries, of_database, symmetric=symmetric, device=device)

    return Method(name, description, scores, trivial)


def chance() -> Method:
    """The same score for everything: with ties counted exactly, its figure is the mean over all random rankings."""

    def scores(queries: Sequence[str], database: Sequence[str]) -> NDArray[np.floating]:
        return np.zeros((len(queries), len(database)), dtype=np.float32)

    return Method("chance", "the same score for every video: the mean over all random rankings, exactly", scores, True)


def pixels(shards: ShardSet, ids: Sequence[str]) -> Method:
    """Grey thumbnails, mean removed, averaged over the frames: what the eye of a 32 x 32 camera would find."""
    with Progress(len(ids), "videos", "thumbnails") as progress:
        rows = []
        for video_id in ids:
            rows.append(thumbnail(shards, video_id))
            progress.advance(rejects=int(not rows[-1].any()))
    text = f"{THUMBNAIL} x {THUMBNAIL} grey thumbnails, mean removed, averaged over frames at 1 per second; cosine"
    return from_embeddings("pixels", text, ids, np.stack(rows), trivial=True)


def thumbnail(shards: ShardSet, video_id: str) -> NDArray[np.float32]:
    """The averaged thumbnail of a video, float32 [32 * 32]; zeros if none of its clips can be decoded."""
    total = np.zeros(THUMBNAIL * THUMBNAIL, dtype=np.float64)
    for frames in decoded_clips(shards, video_id, short_side=2 * THUMBNAIL):
        small_TN = np.stack([_grey(frame) for frame in frames]).reshape(len(frames), -1)
        total += (small_TN - small_TN.mean(axis=1, keepdims=True)).sum(axis=0)
    return total.astype(np.float32)


def decoded_clips(shards: ShardSet, video_id: str, *, short_side: int) -> list[NDArray[np.uint8]]:
    """Frames of a video at 1 per second, uint8 [T, H, W, 3] per clip; what is absent or damaged is left out."""
    from ..shards.video.decode import decode_frames  # opens PyAV

    try:
        held = shards.read_clip(video_id)
    except KeyError:
        return []
    clips = []
    for clip in held:
        try:
            frames = decode_frames(clip.data, fps=1.0, short_side=short_side).frames
        except DataError as error:
            partial = getattr(error, "partial", None)  # what was decoded before the damage
            frames = np.zeros((0, 1, 1, 3), np.uint8) if partial is None else partial.frames
        if len(frames):
            clips.append(frames)
    return clips


def _grey(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """An RGB frame [H, W, 3] as a grey thumbnail [32, 32], stretched to the square."""
    from PIL import Image

    image = Image.fromarray(frame).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64)


def _check_memory(source: FeatureSource, ids: Sequence[str], max_memory: float) -> None:
    """Refuse, before any work, frame embeddings that would not fit."""
    num_frames = sum(source.num_frames(video_id) for video_id in ids)
    width = source.features(ids[0]).shape[1]
    needed = 2 * num_frames * width
    if needed > max_memory:
        raise ReelkinError(
            f"frame embeddings of {len(ids)} videos ({num_frames} frames x {width} dimensions x 2 bytes) need "
            f"{needed / 1e9:.1f} GB, over --max-memory {max_memory / 1e9:.1f} GB; raise it, or leave the frame "
            "methods out"
        )
