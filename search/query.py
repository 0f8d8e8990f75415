"""From raw videos to their embeddings, the way the videos of an index were embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.errors import DataError, Reason, ReelkinError, UsageError
from ..core.files import sha256_file
from ..core.progress import Progress
from ..extract.describe import Describer
from ..extract.encoders import Encoder, EncoderSpec, build_encoder
from ..extract.pca import PCA
from ..extract.prefetch import Source
from ..extract.store import to_float16
from ..train.checkpoint import load_model
from .embed import Embedding, FeaturesInMemory, check_width, iter_embeddings
from .index import SearchIndex


@dataclass(frozen=True)
class Rejected:
    """A query that has no embedding: its path as given, why, and the sentence."""

    path: str
    reason: Reason
    detail: str


class VideoEmbedder:
    """Encoder, PCA, sampling and model in one: raw videos in, embeddings out.

    Args:
        features: what made the features of the model's store: ``encoder``, ``pca``, ``sampling`` of store.json.
        model: in eval mode.
        pca: the PCA file; needed if ``features`` names one.
        weights: the encoder's weights. Default: those recorded, if they are at hand and run no code.
        device: where encoder and model run.

    Raises:
        UsageError: weights are needed, or those given are others than recorded.
        ReelkinError: the PCA is missing or another one.
    """

    def __init__(
        self,
        features: dict[str, Any],
        model: nn.Module,
        *,
        pca: Path | None = None,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        recorded = features.get("pca")
        if recorded and (pca is None or not pca.is_file() or sha256_file(pca) != recorded.get("sha256")):
            raise ReelkinError(
                f"the features went through the PCA with sha256 {recorded.get('sha256')}, and {pca} is not that file; "
                "copy the index again, or name the PCA"
            )
        encoder = rebuild_encoder(features.get("encoder") or {}, weights, device)
        fps = float((features.get("sampling") or {}).get("fps", 1.0))
        self.describer = Describer(encoder, PCA.load(pca) if recorded and pca else None, fps=fps)
        self.model = model
        self.device = device
        self.info: dict[str, Any] = {
            "dim": self.describer.dim,
            "encoder": encoder.info,
            "pca": recorded,
            "sampling": features.get("sampling"),
        }

    @classmethod
    def of_index(
        cls, index: SearchIndex, *, weights: Path | None = None, device: torch.device | str = "cpu"
    ) -> VideoEmbedder:
        """The embedder whose results can be searched in ``index``. Raises as the class, and if anything differs."""
        features = index.info["features"]
        pca = index.path / "pca.safetensors" if features.get("pca") else None
        embedder = cls(features, index.model, pca=pca, weights=weights, device=device)
        index.check_features(embedder.info, "the query")
        return embedder

    @classmethod
    def of_model(
        cls,
        model: Path,
        features: dict[str, Any],
        *,
        pca: Path | None = None,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> VideoEmbedder:
        """The embedder of a model folder and a description of its features (store.json)."""
        embedder = cls(features, load_model(model), pca=pca, weights=weights, device=device)
        check_width(embedder.model, embedder.describer)
        return embedder

    def embed(self, paths: Sequence[Path], *, frames: bool = True) -> tuple[list[Embedding], list[Rejected]]:
        """Embed videos; one that cannot be read is returned as rejected and harms no other.

        Args:
            paths: video files; ids are the paths as given, a repeated path counts once.
            frames: also give frame embeddings.

        Returns:
            Embeddings in the order of ``paths``, and the rejected.
        """
        features, rejected = self.features(paths)
        if not features:
            return [], rejected
        source = FeaturesInMemory(features)
        found = {
            embedding.video_id: embedding
            for embedding in iter_embeddings(self.model, source, source.video_ids, frames=frames, device=self.device)
        }
        return [found[video_id] for video_id in source.video_ids], rejected

    def features(self, paths: Sequence[Path]) -> tuple[dict[str, NDArray[np.float16]], list[Rejected]]:
        """Frame features float16 [T, D] by path, as a store would hold them, and the rejected."""
        rejected: list[Rejected] = []
        sources = []
        for path in dict.fromkeys(paths):
            if path.is_file():
                sources.append(Source(str(path), path))
            else:
                text = "is a folder" if path.is_dir() else "there is no such file"
                rejected.append(Rejected(str(path), Reason.MISSING, text))
        features: dict[str, NDArray[np.float16]] = {}
        with Progress(len(sources), "videos", "describing") as progress:
            for described in self.describer.describe(sources):
                try:
                    if described.error is not None:
                        raise described.error
                    features[described.key] = to_float16(described.features)
                except DataError as error:
                    rejected.append(Rejected(described.key, error.reason, str(error)))
                progress.advance(rejects=int(described.key not in features))
        return features, rejected


def rebuild_encoder(info: dict[str, Any], weights: Path | None, device: torch.device | str) -> Encoder:
    """The encoder that a store or an index records.

    TorchScript weights run code, so they are used only if the user names the file, and only if its hash is the one
    recorded; a state dict runs nothing and is taken from where it was, or from the published place.

    Raises:
        UsageError: weights must be given, or those given are others than recorded.
        ReelkinError: nothing is recorded.
    """
    if not info.get("name"):
        raise ReelkinError("no encoder is recorded with these features, so raw videos cannot be described alike")
    recorded = str(info.get("weights_sha256", ""))
    if weights is not None:
        if not weights.is_file():
            raise UsageError(f"--weights {weights}: there is no such file")
        digest = sha256_file(weights)
        if digest != recorded:
            raise UsageError(
                f"--weights {weights} has sha256 {digest}, but the features were made by {info['name']} with sha256 "
                f"{recorded} ({info.get('weights')}); give that file"
            )
        chosen = str(weights)
    elif info.get("random_weights"):
        chosen = "random"
    elif info["name"] == "torchscript":
        raise UsageError(
            f"the encoder is the TorchScript file {info.get('weights')} (sha256 {recorded}); such a file runs code, "
            "so name it yourself with --weights FILE"
        )
    else:
        at = Path(str(info.get("weights_path") or ""))
        chosen = str(at) if at.is_file() and sha256_file(at) == recorded else "default"
    preprocessing = info.get("preprocessing") or {}
    spec = EncoderSpec(
        name=str(info["name"]),
        weights=chosen,
        size=preprocessing.get("short_side"),
        crop=preprocessing.get("crop"),
        input=preprocessing.get("input"),
        precision=info.get("precision", "float32"),
    )
    return build_encoder(spec, device)
