"""Features of video files that are in no store, made as a given store's were: for queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import DataError, ReelkinError
from ..core.files import sha256_file
from ..shards.sources.listing import list_videos
from ..shards.video.sampling import Sampling
from .decoding.tasks import Source
from .describe import COMPARED, Describer, join_clips
from .encoders import EncoderSpec, build_encoder, spec_from_info
from .pca import PCA
from .store import FeatureStore, StoreRow


@dataclass(frozen=True)
class Extraction:
    """Features of some videos.

    Attributes:
        videos: ``{video_id: (features float16 [T, D], times float64 [T] seconds)}``.
        rejects: a row for each video without features, with its reason.
    """

    videos: dict[str, tuple[np.ndarray, np.ndarray]]
    rejects: list[StoreRow]


def extract_videos(paths: Iterable[str | Path] | Mapping[str, str | Path], describer: Describer) -> Extraction:
    """Features of video files: the numbers that a store made with the same settings would hold for them.

    Args:
        paths: files, folders and lists, with ids as the shards would give them; or ``{video_id: file}``.
        describer: see `describer_of`.

    Raises:
        UsageError: a path does not exist (in a mapping it becomes a reject instead).
    """
    rejects: list[StoreRow] = []
    if isinstance(paths, Mapping):
        files = {video_id: Path(path) for video_id, path in paths.items()}
    else:
        inputs = list_videos([Path(path) for path in paths]).inputs
        rejects = [StoreRow.rejected(each.video_id, each.reason, each.detail) for each in inputs if each.reason]
        files = {each.video_id: Path(each.path) for each in inputs if not each.reason}
    videos = {}
    for described in describer.describe(Source(video_id, path) for video_id, path in files.items()):
        video_id = described.source.key
        try:
            videos[video_id] = join_clips([described], [0.0])
        except DataError as error:
            rejects.append(StoreRow.rejected(video_id, error.reason, str(error)))
    return Extraction(videos, rejects)


def describer_of(
    store: FeatureStore | str | Path,
    *,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    batch_frames: int = 0,
    workers: int = 0,
) -> Describer:
    """The encoder, PCA and sampling that a store was made with, ready for further videos.

    Args:
        store: the store, or its folder.
        weights: the encoder's file, when it is not where it was; its SHA-256 must be the recorded one.
        device, batch_frames, workers: see `encoders.build_encoder` and `describe.Describer`.

    Raises:
        ReelkinError: the store does not say how it was made, or its weights or PCA cannot be found unchanged.
    """
    store = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    return describer_from(
        store.info, store.path, weights=weights, device=device, batch_frames=batch_frames, workers=workers
    )


def describer_from(
    info: Mapping[str, Any],
    folder: Path,
    *,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    batch_frames: int = 0,
    workers: int = 0,
) -> Describer:
    """Like `describer_of`, from the content of a store.json and the folder that holds the PCA's file."""
    made = info.get("encoder") or {}
    if "preprocessing" not in made or "mode" not in (info.get("sampling") or {}):
        raise ReelkinError(f"{folder} does not say how its features were made; raw videos cannot be compared with it")
    spec = _spec(made, weights)
    if spec.precision == "float16" and torch.device(device).type != "cuda":
        spec = replace(spec, precision="auto")  # float16 is for GPUs; features agree in what processors have instead
    encoder = build_encoder(replace(spec, compile=False), device)  # it takes a minute, and changes no feature
    for key in COMPARED:
        if encoder.info.get(key) != made.get(key):
            raise ReelkinError(
                f"the encoder differs from the one of {folder}: {key} was {made.get(key)!r}, is "
                f"{encoder.info.get(key)!r} now; pass the file it was made with ({made.get('weights')}) as --weights"
            )
    pca = None
    if info.get("pca"):
        path = folder / info["pca"]["file"]
        if not path.exists() or sha256_file(path) != info["pca"]["sha256"]:
            raise ReelkinError(f"{path} is missing or not the PCA that the features were made with; copy it again")
        pca = PCA.load(path)
    sampling = Sampling.from_dict(info["sampling"])
    return Describer(encoder, pca, sampling=sampling, batch_frames=batch_frames, workers=workers)


def _spec(made: Mapping[str, Any], weights: str | Path | None) -> EncoderSpec:
    fetched = "default" if made["name"].startswith("timm:") else None  # timm keeps its files in a cache of its own
    recorded = "random" if made["random_weights"] else made.get("weights_path") or fetched
    chosen = str(weights) if weights else recorded
    if chosen is None or (chosen not in ("random", "default") and not Path(chosen).exists()):
        raise ReelkinError(
            f"the encoder's weights {chosen or made['weights']} are not there; pass the file as --weights"
        )
    return spec_from_info(made, chosen)
