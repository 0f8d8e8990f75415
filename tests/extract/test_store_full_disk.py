"""A full disk: a clear error, nothing half written, and the same command goes on when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.engine.single import SingleEngine
from reelkin.core.errors import ReelkinError
from reelkin.extract.exchange import importing
from reelkin.extract.exchange.exporting import export_features
from reelkin.extract.exchange.importing import Import, Origin, open_source
from reelkin.extract.reducing.applying import apply_to_store
from reelkin.extract.reducing.reduction import fit_on_store
from reelkin.extract.storage.merging import merge, plan_merge
from reelkin.extract.storage.removal import remove
from reelkin.extract.store import FeatureStore, write_store

INFO = {"encoder": {"name": "x", "dim": 64}, "sampling": {"fps": 1.0}, "decoder": "pyav"}
SIZE = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def make(folder: Path, count: int = 40, name: str = "v") -> FeatureStore:
    """2.5 MB of features."""
    pairs = (
        (f"{name}{number:02d}", (np.random.default_rng(number).normal(size=(500, 64)), np.arange(500.0)))
        for number in range(count)
    )
    return write_store(folder, pairs, INFO, block_bytes=200_000)


def fails(small: Path, write: Callable[[Path], object], output: str = "out") -> None:
    """The error says what is the matter; beside whole files nothing is left, and no store that claims to be whole."""
    with pytest.raises(ReelkinError, match=f"cannot write {small}/{output}.*No space left on device.*Make room"):
        write(small / output)
    assert [path for path in small.rglob("*") if "partial" in path.name] == []
    assert not (small / output / "store.json").exists() and not (small / output / "manifest.parquet").exists()


def test_writing_a_store(small: Path) -> None:
    fails(small, make)
    (small / "fill").write_bytes(b"x" * 1000)  # there is room again: whole blocks, nothing else


def test_applying_a_pca(small: Path, tmp_path: Path) -> None:
    store, engine = make(tmp_path / "store"), SingleEngine(torch.device("cpu"))
    fit_on_store(store, 50, engine, frames_per_video=100).save(tmp_path / "pca")
    fails(small, lambda output: apply_to_store(store, tmp_path / "pca", output, engine))
    whole = [path.name for path in (small / "out").glob("*.json")]
    assert len(whole) == len(list((small / "out").glob("*.safetensors"))) > 0
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    times = {name: (small / "out" / name).stat().st_mtime_ns for name in whole}
    apply_to_store(store, tmp_path / "pca", small / "out", engine).verify()
    assert {name: (small / "out" / name).stat().st_mtime_ns for name in whole} == times


def test_importing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BLOCK_VIDEOS", 3)
    export_features(make(tmp_path / "store"), tmp_path / "in.npz", "npz")
    fails(small, lambda output: Import(open_source(tmp_path / "in.npz"), output, Origin({"name": "x"}, {})).run())
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    store = Import(open_source(tmp_path / "in.npz"), small / "out", Origin({"name": "x"}, {})).run()
    store.verify()
    assert len(store) == 40


@pytest.mark.parametrize("layout", ["hdf5", "npy", "npz"])
def test_exporting(layout: str, small: Path, tmp_path: Path) -> None:
    if layout == "hdf5":
        pytest.importorskip("h5py")
    store = make(tmp_path / "store")
    fails(small, lambda output: export_features(store, output, layout))  # type: ignore[arg-type]
    if layout == "npy":
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        assert export_features(store, small / "out", "npy") == 40
    else:
        assert list(small.iterdir()) == []


def test_joining(small: Path, tmp_path: Path) -> None:
    job = plan_merge([make(tmp_path / "1"), make(tmp_path / "2", name="w")], small / "out")
    fails(small, lambda output: merge(job))


def test_taking_videos_out(small: Path, tmp_path: Path) -> None:
    """It needs room for one block. Without that the store says what finishes the removal."""
    make(small / "out", 12)
    free = os.statvfs(small).f_bavail * os.statvfs(small).f_bsize
    (small / "fill").write_bytes(b"x" * (free - 100_000))
    with pytest.raises(ReelkinError, match="No space left on device"):
        remove(small / "out", ["v03"])
    with pytest.raises(ReelkinError, match=r"run extract/remove\.py"):
        FeatureStore.open(small / "out")
    (small / "fill").unlink()
    remove(small / "out", [])
    store = FeatureStore.open(small / "out")
    store.verify()
    assert len(store) == 11 and "v03" not in store
