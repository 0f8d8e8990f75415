"""Scores a store under any launcher; rank 0 writes the matrix as an .npz file and what was left out as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from reelkin.core.engine import start
from reelkin.evaluate.published.embedding_scores import score_embeddings
from reelkin.extract.store import FeatureStore
from reelkin.train.models.tca import TCA, TCAConfig


class Holed(FeatureStore):
    """A store in which one video lost its frames and one its numbers."""

    def num_frames(self, video_id: str) -> int:
        return 0 if video_id == "v3" else super().num_frames(video_id)

    def features(self, video_id: str, *args: int, **kwargs: bool) -> np.ndarray:
        found = super().features(video_id, *args, **kwargs).astype(np.float32)
        return found * (np.nan if video_id == "v7" else 1)


def main(store: str, output: str, metric: str, max_bytes: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TCA(TCAConfig(dim=16, num_heads=2, feedforward=32, init="published")).eval()
    with start(device="cpu") as engine:
        source = Holed.open(store)
        queries = [video_id for video_id in source.video_ids if video_id.startswith("q")]
        scores = score_embeddings(
            source, model, queries, source.video_ids, engine=engine, metric=metric, max_bytes=max_bytes
        )
        if engine.is_main:
            assert scores is not None
            np.savez(output, queries=scores.queries, database=scores.database, similarities=scores.matrix)
            said = {"ranks": engine.size, "problems": [problem.text for problem in scores.problems]}
            Path(output).with_suffix(".json").write_text(json.dumps(said))
        else:
            assert scores is None


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
