"""From raw videos to their embeddings, the way the videos of an index were embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import ReelkinError, UsageError
from ..core.files import read_json, sha256_file
from ..extract.describe import Describer
from ..extract.queries import describer_from, extract_videos
from ..train.checkpoint import open_model
from ..train.embed import Embedding, iter_embeddings
from .embed import FeaturesInMemory, check_model
from .index import SearchIndex


@dataclass(frozen=True)
class Rejected:
    """A query that has no embedding: its path as given, why (`core.errors.Reason`), and the sentence."""

    path: str
    reason: str
    detail: str


class VideoEmbedder:
    """Encoder, PCA, sampling and model in one: raw videos in, embeddings out.

    Args:
        describer: encoder, PCA and sampling.
        model: in eval mode.
        device: where the model runs.

    Raises:
        ReelkinError: the model takes other features.
    """

    def __init__(self, describer: Describer, model: nn.Module, device: torch.device | str = "cpu") -> None:
        check_model(model, describer)
        self.describer = describer
        self.model = model
        self.device = device

    @classmethod
    def of_index(
        cls, index: SearchIndex, *, weights: Path | None = None, device: torch.device | str = "cpu"
    ) -> VideoEmbedder:
        """The embedder whose results can be searched in ``index``.

        Raises:
            UsageError: weights are needed, or those given are others than recorded (see `check_weights`).
            ReelkinError: encoder or PCA cannot be had as recorded.
        """
        features = index.info["features"]
        check_weights(features.get("encoder") or {}, weights)
        return cls(describer_from(features, index.path, weights=weights, device=device), index.model, device)

    @classmethod
    def of_model(
        cls, model: Path, store: Path, *, weights: Path | None = None, device: torch.device | str = "cpu"
    ) -> VideoEmbedder:
        """The embedder of a model (as `train.checkpoint.open_model` takes it), with the encoder, PCA and sampling of a
        store; raises as `of_index`."""
        info = read_json(store / "store.json")
        check_weights(info.get("encoder") or {}, weights)
        loaded = open_model(model)
        check_model(loaded.module, None, loaded, info)
        return cls(describer_from(info, store, weights=weights, device=device), loaded.module, device)

    def embed(self, paths: Sequence[Path], *, frames: bool = True) -> tuple[list[Embedding], list[Rejected]]:
        """Embed videos; one that cannot be read is returned as rejected and harms no other.

        Args:
            paths: video files; ids are the paths as given, a repeated path counts once.
            frames: also give frame embeddings.

        Returns:
            Embeddings in the order of ``paths``, and the rejected.
        """
        extraction = extract_videos({str(path): path for path in paths}, self.describer)
        rejected = [Rejected(row.video_id, row.reason, row.detail) for row in extraction.rejects]
        source = FeaturesInMemory({video_id: features for video_id, (features, _) in extraction.videos.items()})
        found = {
            embedding.video_id: embedding
            for embedding in iter_embeddings(self.model, source, source.video_ids, frames=frames, device=self.device)
        }
        return [found[video_id] for video_id in source.video_ids], rejected


def check_weights(encoder: Mapping[str, Any], weights: Path | None) -> None:
    """Refuse, before anything is loaded, weights that are not the recorded ones.

    TorchScript files run code, and an index may come from a stranger: so such a file is used only if the user names it,
    never because a path is recorded.

    Args:
        encoder: as recorded in store.json.
        weights: the file that the user names.

    Raises:
        UsageError: the file is needed, does not exist, or has another hash; both hashes are named.
        ReelkinError: nothing is recorded.
    """
    if not encoder.get("name"):
        raise ReelkinError("no encoder is recorded with these features, so raw videos cannot be described alike")
    recorded = str(encoder.get("weights_sha256"))
    if weights is None:
        if encoder["name"] == "torchscript":
            raise UsageError(
                f"the encoder is the TorchScript file {encoder.get('weights')} (sha256 {recorded}); such a file runs "
                "code, so name it yourself with --weights FILE"
            )
    elif encoder["name"] == "run":
        if not weights.is_dir():
            raise UsageError(f"--weights {weights}: there is no such folder; the encoder was one that was trained here")
    elif not weights.is_file():
        raise UsageError(f"--weights {weights}: there is no such file")
    elif (digest := sha256_file(weights)) != recorded:
        raise UsageError(
            f"--weights {weights} has sha256 {digest}, but the features were made by {encoder['name']} with sha256 "
            f"{recorded} ({encoder.get('weights')}); give that file"
        )
