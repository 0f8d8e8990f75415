"""Training features from a store or from the published code's HDF5 file: what is read, what is refused, by name."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from reelkin.core.engine import start
from reelkin.core.errors import ReelkinError, UsageError
from reelkin.extract.exchange.hdf5_features import Hdf5Features
from reelkin.extract.store import FeatureStore, write_store
from reelkin.train.data.sources import open_features, rejected
from reelkin.train.recipes.tca import TcaRecipe, build

from .conftest import scene_features, write_csv

FEATURES = scene_features(scenes=4, copies=2)


def published(path: Path, **more: np.ndarray) -> Path:
    """A flat HDF5 file as the published code writes it: a dataset per id, in one piece."""
    with h5py.File(path, "w") as file:
        for name, frames in {**FEATURES, **more}.items():
            file.create_dataset(name, data=frames)
    return path


def test_an_hdf5_file_gives_what_was_written(tmp_path: Path) -> None:
    found = open_features(published(tmp_path / "f.hdf5"))
    assert found.video_ids == sorted(FEATURES) and found.dim == 32 and rejected(found) == ()
    for name, frames in FEATURES.items():
        assert np.array_equal(found.features(name), frames) and found.num_frames(name) == len(frames)
        assert np.array_equal(found.features(name, 1, 4), frames[1:4])
    assert "s00" in found and "none" not in found
    with pytest.raises(KeyError, match="'none' has no features"):
        found.features("none")


@pytest.mark.parametrize("options", [{"chunks": (2, 8)}, {"compression": "gzip"}, {"dtype": ">f8"}, {"dtype": "f2"}])
def test_every_way_to_lie_in_the_file_reads_as_the_library_reads_it(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        for name, frames in FEATURES.items():
            file.create_dataset(name, data=frames, **options)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((2, 32))
        data = h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, compact)
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((2, 32), np.float32))
        file.create_dataset("never written", (3, 32), dtype="f4", fillvalue=7)
    with h5py.File(path) as file:
        wanted = {name: file[name][()] for name in file}
    found = Hdf5Features(path)
    assert set(found.video_ids) == set(wanted) == {*FEATURES, "compact", "never written"}
    for name, frames in wanted.items():
        assert np.array_equal(found.features(name), frames)
        assert np.array_equal(found.features(name, 1, 3), frames[1:3])
    assert (found.features("compact") == 1).all() and (found.features("never written") == 7).all()


def test_a_squeezed_dataset_is_a_video_of_one_frame(tmp_path: Path) -> None:
    found = Hdf5Features(published(tmp_path / "f.h5", short=np.arange(32, dtype=np.float32)))
    assert found.num_frames("short") == 1
    assert np.array_equal(found.features("short"), np.arange(32, dtype=np.float32)[None])


def test_datasets_that_are_no_videos_are_named_with_the_reason_and_do_no_harm(tmp_path: Path) -> None:
    path = published(
        tmp_path / "f.h5",
        wide=np.ones((3, 64), np.float32),
        empty=np.ones((0, 32), np.float32),
        counts=np.ones((3, 32), np.int32),
        regions=np.ones((3, 9, 32), np.float32),
        scalar=np.float32(1),
        long=np.ones(99, np.float32),
    )
    with h5py.File(path, "a") as file:
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
    found = Hdf5Features(path)
    assert found.video_ids == sorted(FEATURES)
    assert {row.video_id: row.reason for row in found.rejects} == {
        "wide": "bad-frames", "empty": "no-frames", "counts": "bad-frames", "regions": "bad-frames",
        "scalar": "bad-frames", "long": "bad-frames", "outside": "forbidden-format",
    }  # fmt: skip
    assert "videos of the features that cannot be used (no-frames): 1 ('empty')" in map(str, rejected(found))


def test_threads_forks_and_copies_of_the_object_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        for name, frames in FEATURES.items():
            file.create_dataset(name, data=frames, chunks=(1, 32))  # not in one piece: goes through the library
    found = Hdf5Features(path)
    names = found.video_ids * 20
    with ThreadPoolExecutor(8) as pool:
        for name, frames in zip(names, pool.map(found.features, names), strict=True):
            assert np.array_equal(frames, FEATURES[name])
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.features("s01"), FEATURES["s01"])
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(found.features(name), FEATURES[name]) for name in found.video_ids)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_digest_sees_values_and_names_and_not_the_date(tmp_path: Path) -> None:
    path = published(tmp_path / "f.h5")
    digest = Hdf5Features(path).digest()
    copied = Path(shutil.copyfile(path, tmp_path / "copied.h5"))
    os.utime(copied, (1, 1))
    assert Hdf5Features(copied).digest() == digest
    with h5py.File(copied, "a") as file:
        file["s00"][0, 0] += 1
    assert Hdf5Features(copied).digest() != digest
    assert Hdf5Features(published(tmp_path / "more.h5", x=np.ones((1, 32), np.float32))).digest() != digest


def test_a_store_says_the_digest_of_its_blocks(tmp_path: Path) -> None:
    def store(name: str, scale: float) -> FeatureStore:
        videos = {each: (frames * scale, np.arange(len(frames)) * 1.0) for each, frames in FEATURES.items()}
        return write_store(tmp_path / name, videos, {})

    assert store("a", 1).digest() == store("b", 1).digest() != store("c", 2).digest()


def test_a_file_that_changes_while_it_is_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    found = Hdf5Features(published(tmp_path / "f.h5"))
    os.truncate(found.path, 3000)
    with pytest.raises(ReelkinError, match=r"'s03' cannot be read from .*f\.h5.*copy it again"):
        found.features("s03")


def test_another_dimension_than_expected_names_both(tmp_path: Path) -> None:
    path = published(tmp_path / "f.h5")
    assert open_features(path, 32).dim == 32
    with pytest.raises(UsageError, match="holds features of 32 dimensions, and --pca-components is 1024"):
        open_features(path, 1024)
    write_store(tmp_path / "store", {"a": (np.ones((2, 8)), np.arange(2.0))}, {})
    with pytest.raises(UsageError, match="holds features of 8 dimensions, and --dim is 16"):
        open_features(tmp_path / "store", 16, "--dim")


def test_what_is_no_source_of_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not exist"):
        open_features(tmp_path / "nowhere.hdf5")
    (tmp_path / "text.hdf5").write_text("no features")
    with pytest.raises(ReelkinError, match=r"text\.hdf5 cannot be read as HDF5"):
        open_features(tmp_path / "text.hdf5")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ReelkinError, match="no finished feature store"):
        open_features(tmp_path / "folder")
    with h5py.File(tmp_path / "counts.h5", "w") as file:
        file.create_dataset("v", data=np.ones((2, 2), np.int64))
    with pytest.raises(UsageError, match="holds no video: 'v' and all others cannot be used"):
        open_features(tmp_path / "counts.h5")


def test_without_h5py_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published(tmp_path / "f.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'reelkin\[hdf5\]'"):
        open_features(path)


def test_training_from_the_file_gives_the_weights_that_a_store_of_the_same_values_gives(tmp_path: Path) -> None:
    halves = {name: frames.astype(np.float16) for name, frames in FEATURES.items()}
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        for name, frames in halves.items():
            file.create_dataset(name, data=frames.astype(np.float32))
    write_store(tmp_path / "store", {name: (each, np.arange(len(each)) * 1.0) for name, each in halves.items()}, {})
    rows = [(name, name.partition("__")[0]) for name in FEATURES if "__" in name]
    copies = write_csv(tmp_path / "edits.csv", ("copy_id", "source_id"), *rows)

    def weights(features: Path) -> dict[str, torch.Tensor]:
        config = TcaRecipe(
            features=features, output=tmp_path / f"run {features.name}", copies=copies, steps=3, batch_size=4,
            max_frames=5, num_heads=4, feedforward=32, queue_size=8, negatives_per_anchor=2,
        )  # fmt: skip
        with start("single") as engine:
            source = open_features(features)
            source.video_ids.sort()
            built = build(config, source, engine)
            built.trainer.train()
            return built.trainer.task.model.state_dict()

    one, other = weights(tmp_path / "f.hdf5"), weights(tmp_path / "store")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
