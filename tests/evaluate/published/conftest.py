"""A small world to evaluate: pairs, features and a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.evaluate.run import main
from reelkin.extract.describe import COMPARED
from reelkin.extract.store import write_store
from reelkin.train.checkpoint import save_model
from reelkin.train.models.tca import TCA, TCAConfig
from tests.helpers.runs import Ran, run_here

DIM, QUERIES, COPIES = 16, 6, 4
ENCODER = {key: f"a {key}" for key in COMPARED} | {"name": "net", "weights_path": "/secret/place.pt"}
PCA = {"sha256": "1" * 64, "file": "pca.safetensors"}


@dataclass
class World:
    """A list of pairs, a store in which every query has copies with more and more noise, and a model."""

    folder: Path

    def run(self, *arguments: str | Path, features: bool = True, model: bool = True) -> Ran:
        given: list[str | Path] = ["--dataset", "PAIRS", "--annotations", self.folder / "pairs.csv"]
        given += ["--feature_path", self.folder / "store"] if features else []
        given += ["--model_path", self.folder / "model"] if features and model else []
        return run_here(main, *given, *arguments)


def features(name: str) -> np.ndarray:
    """A video's features: q0_2 is copy 2 of query q0."""
    query, _, copy = name.partition("_")
    base = np.random.default_rng(int(query[1:])).normal(size=(5, DIM)) * (query[0] == "q")
    rng = np.random.default_rng([ord(query[0]), int(query[1:]), int(copy or 9)])
    return (base + (0.3 + float(copy or 0)) * rng.normal(size=(5, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    queries = [f"q{n}" for n in range(QUERIES)]
    copies = [f"{query}_{copy}" for query in queries for copy in range(COPIES)]
    pairs = [f"{query},{copy},1" for query in queries for copy in copies if copy.startswith(f"{query}_")]
    lost = ["gone,q0_0,1", "q1,lost,1"]
    (folder / "pairs.csv").write_text("\n".join(["query,video,label", *pairs, *lost]) + "\n")
    ids = [*queries, *copies, *(f"v{n}" for n in range(12))]
    write_store(
        folder / "store", {name: (features(name), np.arange(5.0)) for name in ids}, {"encoder": ENCODER, "pca": PCA}
    )
    torch.manual_seed(0)
    facts = {"frame encoder": {k: v for k, v in ENCODER.items() if k != "weights_path"}, "PCA": PCA["sha256"]}
    save_model(TCA(TCAConfig(dim=DIM, num_heads=2, feedforward=32, init="published")), folder / "model", facts)
    return World(folder)
