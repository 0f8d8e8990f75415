"""Small synthetic videos, and what starts training under the real launchers."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reelkin.extract.store import write_store
from reelkin.launch.run_ranks import read_state
from reelkin.train.data.findings import Finding

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
RUN = ROOT / "train" / "run.py"
DIM = 32


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Videos:
    """Frame features in memory, with the interface of a store."""

    def __init__(self, features: Mapping[str, NDArray[np.floating]]) -> None:
        self._features = dict(features)
        self.video_ids = list(features)
        self.dim = next(iter(features.values())).shape[1]

    def features(self, video_id: str, begin: int = 0, end: int | None = None) -> NDArray[np.floating]:
        return self._features[video_id][begin:end]

    def num_frames(self, video_id: str) -> int:
        return len(self._features[video_id])


def scene_features(scenes: int = 16, copies: int = 4, seed: int = 0, dim: int = DIM) -> dict[str, NDArray[np.float32]]:
    """Scenes and their copies: a copy is part of the scene plus a displacement in directions shared by all scenes.

    Mean pooling keeps the displacement; a model can learn to ignore its directions. Ids are s00, s00__1, ...
    """
    rng = np.random.default_rng(seed)
    nuisance = np.random.default_rng(99).standard_normal((6, dim))
    videos = {}
    for scene in range(scenes):
        length = int(rng.integers(5, 10))
        base = rng.standard_normal(dim) + np.cumsum(0.15 * rng.standard_normal((length, dim)), axis=0)
        for copy in range(copies + 1):
            frames = base[int(rng.integers(0, 3)) :] if copy else base
            frames = frames + 0.4 * rng.standard_normal(frames.shape)
            if copy:
                frames = frames + 0.8 * rng.standard_normal(6) @ nuisance
            name = f"s{scene:02d}__{copy}" if copy else f"s{scene:02d}"
            videos[name] = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)
    return videos


def write_csv(path: Path, *rows: tuple[str, ...]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_vcdb(path: Path, **content: object) -> Path:
    pair = {"videos": ["a", "b"], "overlap": [0.5, 0.5]}
    path.write_bytes(pickle.dumps({"video_pairs": [pair], "index": ["a", "b"], "negs": []} | content))
    return path


def said(findings: tuple[Finding, ...]) -> dict[str, tuple[str, ...]]:
    assert len({finding.what for finding in findings}) == len(findings), "a kind is said once"
    return {finding.what: finding.names for finding in findings}


@dataclass(frozen=True)
class Data:
    """A feature store of synthetic scenes and the edits.csv that belongs to it."""

    store: Path
    copies: Path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("scenes")
    features = scene_features()
    write_store(
        folder / "store", {name: (each, np.arange(len(each), dtype=float)) for name, each in features.items()}, {}
    )
    rows = [(name, name.partition("__")[0]) for name in features if "__" in name]
    return Data(folder / "store", write_csv(folder / "edits.csv", ("copy_id", "source_id"), *rows))


@dataclass(frozen=True)
class Finished:
    returncode: int
    output: str


Launch = Callable[..., Finished]


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Run a script: ``launch("horovod" | "mpi" | "torch" | "single", script, *arguments)``; 2 ranks unless single."""

    def run(backend: str, script: Path, *arguments: str | Path, timeout: float = 150, ranks: int = 2) -> Finished:
        words = command_for(backend, ranks) + [str(word) for word in (script, *arguments)]
        # As `reelkin run` sets it: of ranks that share a core over MPI, those that wait leave it to those that work.
        alone = {"OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
        environment = {**alone, **os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"{' '.join(words)} did not end in {timeout} s:\n{output[-4000:]}")
        return Finished(process.returncode, output)

    return run


def command_for(backend: str, ranks: int) -> list[str]:
    if backend == "horovod":
        if shutil.which("horovodrun", path=str(BIN)) is None:
            if os.environ.get("REELKIN_REQUIRE_HOROVOD") == "1":
                pytest.fail("horovod is not installed, and REELKIN_REQUIRE_HOROVOD=1 says that it must be")
            pytest.skip("horovod is not installed; REELKIN_REQUIRE_HOROVOD=1 makes this a failure")
        return [str(BIN / "horovodrun"), "-np", str(ranks), "--gloo", sys.executable]
    if backend == "mpi":
        words = [str(BIN / "horovodrun"), "-np", str(ranks), "-H", f"localhost:{ranks}", "--mpi", sys.executable]
        if shutil.which("mpirun") is None or not read_state().get("mpi"):
            pytest.skip("Horovod was not built with MPI here, as `make doctor` says")
        return words
    if backend == "torch":
        return [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable]
