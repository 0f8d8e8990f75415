"""A tiny encoder and tiny shards, made once a session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reelkin.core.engine import Engine
from reelkin.core.engine.single import SingleEngine
from reelkin.extract.describe import Describer
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.pca import PCA
from reelkin.extract.running.job import Job
from reelkin.extract.running.pipeline import extract_store
from reelkin.extract.store import FeatureStore
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.reader import ShardSet
from reelkin.shards.video.encode import VideoWriter
from reelkin.shards.video.sampling import Sampling
from reelkin.tests.helpers import videos


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    """Commands set up logging for their process; take that back, so that the next test's output is its own."""
    yield
    logger = logging.getLogger("reelkin")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


NAMES = ("a", "b", "c", "d", "e")


class TinyEncoder(nn.Module):
    """12 numbers a frame: mean colours of the four quarters. A pure red picture gives NaN."""

    def forward(self, frames: Tensor) -> Tensor:
        assert frames.dtype == torch.uint8
        x = frames.float() / 255
        pooled = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        red = (x[:, 0] > 0.9).flatten(1).all(dim=1) & (x[:, 1] < 0.1).flatten(1).all(dim=1)
        return torch.where(red[:, None], torch.full_like(pooled, float("nan")), pooled)


class OtherEncoder(nn.Module):
    """Takes and gives the same as the tiny encoder, and is another one."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.float().mean(dim=(2, 3)).repeat(1, 4)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder as a TorchScript file."""
    path = tmp_path_factory.mktemp("encoder") / "tiny.pt"
    torch.jit.script(TinyEncoder()).save(str(path))
    return path


MakeDescriber = Callable[..., Describer]


@pytest.fixture
def tiny(tiny_file: Path) -> Iterator[MakeDescriber]:
    """Makes describers around the tiny encoder: short side 48, centre crop 40, 2 frames a second."""
    torch.set_num_threads(1)

    def make(pca: PCA | None = None, **settings: object) -> Describer:
        encoder = build_encoder(EncoderSpec("torchscript", str(tiny_file), 48, 40))
        made.append(Describer(encoder, pca, **{"sampling": Sampling(fps=2.0), "workers": 1, **settings}))  # type: ignore
        return made[-1]

    made: list[Describer] = []
    yield make
    for describer in made:
        describer.close()


def extract(shards: ShardSet, output: Path, describer: Describer, engine: Engine, **job: object) -> FeatureStore:
    """Extract a store."""
    return extract_store(Job(shards, output, **job), describer, engine)  # type: ignore[arg-type]


def write_quarters(path: Path, seed: int, seconds: int) -> None:
    """A video of 10 pictures a second whose four quarters have random colours; wide or tall by turns."""
    width, height = (96, 64) if seed % 2 else (64, 96)
    colours = np.random.default_rng(seed).integers(0, 256, (seconds * 10, 2, 2, 3), dtype=np.uint8)
    with VideoWriter(path, width, height, 10, preset="ultrafast") as writer:
        for colour in colours:
            writer.write(colour.repeat(height // 2, axis=0).repeat(width // 2, axis=1))


def make_shards(folder: Path, output: Path, shard_videos: int = 2) -> ShardSet:
    """Build shards from a folder, two videos each, with the first picture checked only."""
    build(BuildConfig((folder,), output, shard_videos=shard_videos, workers=1))
    return ShardSet.open(output)


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good videos of different lengths and one text file that calls itself a video; treat as read-only."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        write_quarters(folder / f"{name}.mp4", number, seconds=2 + number)
    videos.make_text(folder / "text.mp4")
    return folder


@pytest.fixture(scope="session")
def shards(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Three shards of two inputs each."""
    return make_shards(video_folder, tmp_path_factory.mktemp("shards"))


@pytest.fixture
def engine() -> Engine:
    return SingleEngine(torch.device("cpu"))
