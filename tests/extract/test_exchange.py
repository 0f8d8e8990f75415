"""Features of others into a store and out of it, against files written and read with h5py and numpy directly."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ExitCode, ReelkinError, UsageError
from reelkin.extract import export_features as export_command
from reelkin.extract import import_features as import_command
from reelkin.extract.exchange import importing
from reelkin.extract.exchange.exporting import export_features
from reelkin.extract.exchange.importing import Origin, open_source
from reelkin.extract.storage.removal import remove
from reelkin.extract.store import FeatureStore, write_store
from reelkin.tests.helpers.feature_files import IDS, make, take, videos, write_h5, write_npys, write_npz

h5py = pytest.importorskip("h5py")

ODD = ["a//b", "../up", "/top", "end/", ".", "plain/below", "x.npy/y", "escaped/1", "n" * 300, "%2F"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4")], ids=str)
@pytest.mark.parametrize("layout", ["hdf5", "gzip", "npy", "npz"])
def test_published_layouts_are_read(layout: str, dtype: np.dtype, tmp_path: Path) -> None:
    expected = videos()
    arrays = {name: array.astype(dtype) for name, array in expected.items()}
    if layout in ("hdf5", "gzip"):
        more = {"compression": "gzip", "compression_opts": 9} if layout == "gzip" else {}
        source = write_h5(tmp_path / "in.hdf5", arrays, **more)
    else:
        source = write_npys(tmp_path / "in", arrays) if layout == "npy" else write_npz(tmp_path / "in.npz", arrays)
    store = take(source, tmp_path / "store")
    store.verify()
    assert set(store.video_ids) == set(expected) and store.rejects == []
    for name, array in expected.items():
        np.testing.assert_array_equal(store.features(name), array)
        np.testing.assert_array_equal(store.times(name), np.arange(len(array)))
    assert store.info["encoder"] == {"name": "theirs", "dim": 8}
    assert store.info["sampling"] == {"mode": "imported", "fps": None if layout == "npz" else 1.0}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("layout", ["hdf5", "npy", "npz"])
def test_what_goes_out_comes_back_bit_for_bit(layout: str, dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    odd_times = {name: np.sort(rng.uniform(0, 99, len(array))) for name, array in videos(IDS + ODD).items()}
    regular = {name: np.arange(len(array)) / 2.5 for name, array in videos(IDS + ODD).items()}
    long = make(20_000, seed=5)  # times of more than 64 kB, which an old HDF5 attribute cannot hold
    given = {
        name: (array, (odd_times if number % 2 else regular)[name])
        for number, (name, array) in enumerate(videos(IDS + ODD).items())
    } | {"long": (long, np.sort(rng.uniform(0, 9e3, 20_000)))}
    store = write_store(tmp_path / "store", given, {"encoder": {"name": "x"}, "sampling": {"fps": 2.5}})
    to = tmp_path / {"hdf5": "out.hdf5", "npy": "out", "npz": "out.npz"}[layout]
    assert export_features(store, to, layout, dtype) == len(given)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    assert not (tmp_path / "up.npy").exists()  # no id leads out of the folder
    back = take(to, tmp_path / "back")
    assert back.rejects == [] and set(back.video_ids) == set(given)
    for name, (array, times) in given.items():
        np.testing.assert_array_equal(back.features(name), array)
        np.testing.assert_array_equal(back.times(name), times)
    assert back.info["sampling"]["fps"] == (None if layout == "npz" else 2.5)


def test_exported_files_are_what_others_expect(tmp_path: Path) -> None:
    expected = videos()
    store = write_store(
        tmp_path / "store", {k: (v, np.arange(len(v))) for k, v in expected.items()}, {"sampling": {"fps": 1.0}}
    )
    for layout, name in (("hdf5", "out.hdf5"), ("npy", "out"), ("npz", "out.npz")):
        export_features(store, tmp_path / name, layout)  # type: ignore[arg-type]
    with h5py.File(tmp_path / "out.hdf5") as file:
        for video_id, array in expected.items():
            assert file[video_id].dtype == np.float32
            np.testing.assert_array_equal(file[video_id][:], array)
    for video_id, array in expected.items():
        loaded = np.load(tmp_path / "out" / f"{video_id}.npy")
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, array)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as data:
        assert sorted(data.files) == ["features", "timestamps", "video_ids"] and data["features"].dtype == np.float32
        assert list(dict.fromkeys(data["video_ids"])) == list(expected)
        np.testing.assert_array_equal(data["features"], np.concatenate(list(expected.values())))
        np.testing.assert_array_equal(
            data["timestamps"], np.concatenate([np.arange(len(v)) for v in expected.values()])
        )


def test_the_same_store_gives_the_same_files(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", {k: (v, np.arange(len(v)) * 0.3) for k, v in videos().items()}, {})
    for name in ("a.hdf5", "b.hdf5", "a.npz", "b.npz"):
        export_features(store, tmp_path / name, "hdf5" if name.endswith("5") else "npz")
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_single_frames_may_be_squeezed_and_ids_may_be_names(tmp_path: Path) -> None:
    """As TCA leaves them: core/<id>.npy, and [D] for one frame."""
    source = write_npys(
        tmp_path / "in", {"core/one": make(1)[0], "core/two": make(2), "3/three": make(3), "3/two": make(1)}
    )
    store = take(source, tmp_path / "store", ids="name")
    assert store.video_ids == ["three", "two", "one"]
    assert [(row.video_id, row.reason) for row in store.rejects] == [("two", "duplicate-id")]
    np.testing.assert_array_equal(store.features("one"), make(1))


def test_times_come_from_the_source_unless_a_rate_is_given(tmp_path: Path) -> None:
    intervals = np.array([[2.0, 3.0], [0.0, 1.0], [1.0, 2.0], [0.5, 1.5]])
    source = write_npz(tmp_path / "in.npz", {"a": make(3), "b": make(1)}, intervals)
    store = take(source, tmp_path / "store")
    np.testing.assert_array_equal(store.times("a"), [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(store.features("a"), make(3)[[1, 2, 0]])  # in the order of time
    np.testing.assert_array_equal(store.times("b"), [0.5])
    fixed = take(source, tmp_path / "fixed", fps=4.0)
    np.testing.assert_array_equal(fixed.times("a"), [0.0, 0.25, 0.5])
    np.testing.assert_array_equal(fixed.features("a"), make(3))
    assert fixed.info["sampling"]["fps"] == 4.0


@pytest.mark.parametrize("layout", ["hdf5", "npy", "npz"])
def test_regions_are_refused_or_kept_or_summed(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=(3, 9, 4)).astype(np.float16) for name in ("a", "b")}
    source = {
        "hdf5": lambda: write_h5(tmp_path / "in.h5", given),
        "npy": lambda: write_npys(tmp_path / "in", given),
        "npz": lambda: write_npz(tmp_path / "in.npz", given),
    }[layout]()
    with pytest.raises(UsageError, match=r"9 regions a frame, of 4 numbers.*--regions flatten"):
        take(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    flat = take(source, tmp_path / "store", regions="flatten")
    np.testing.assert_array_equal(flat.features("b"), given["b"].reshape(3, 36))
    export_features(flat, tmp_path / "back.h5", "hdf5", "float16")
    with h5py.File(tmp_path / "back.h5") as file:
        np.testing.assert_array_equal(file["b"][:], given["b"])
    summed = take(source, tmp_path / "sum", regions="sum")
    expected = given["a"].astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(summed.features("a"), expected / np.linalg.norm(expected, axis=1)[:, None], atol=1e-3)


def test_single_regions_are_no_regions(tmp_path: Path) -> None:
    store = take(write_h5(tmp_path / "in.h5", {"a": make(3)[:, None]}), tmp_path / "store")
    np.testing.assert_array_equal(store.features("a"), make(3))


@pytest.mark.parametrize("layout", ["hdf5", "npy", "npz"])
def test_a_stopped_import_goes_on_and_ends_as_if_never_stopped(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = videos([f"v{n:02d}" for n in range(20)]) | {"v07": np.full((1, 8), np.nan, np.float16)}
    source = {
        "hdf5": lambda: write_h5(tmp_path / "in.h5", given),
        "npy": lambda: write_npys(tmp_path / "in", given),
        "npz": lambda: write_npz(tmp_path / "in.npz", given),
    }[layout]()
    monkeypatch.setattr(importing, "BLOCK_VIDEOS", 3)
    whole = take(source, tmp_path / "whole")
    assert len(whole.blocks) == 7
    write, left = importing.write_block, [4]

    def stops(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "write_block", stops)
    with pytest.raises(KeyboardInterrupt):
        take(source, tmp_path / "store")
    with pytest.raises(ReelkinError, match="no store"):
        FeatureStore.open(tmp_path / "store")
    left[0] = 3  # exactly the blocks that are missing
    store = take(source, tmp_path / "store")
    assert left[0] == 0 and store.info == whole.info
    assert (tmp_path / "store/manifest.parquet").read_bytes() == (tmp_path / "whole/manifest.parquet").read_bytes()
    assert take(source, tmp_path / "store").info == whole.info and left[0] == 0
    remove(tmp_path / "store", ["v03"])
    left[0] = 99
    for rebuild in (False, True):
        again = take(source, tmp_path / "store", rebuild=rebuild)
        assert "v03" not in again and len(again) == 18
        assert {row.video_id: row.reason for row in again.rejects} == {"v03": "removed", "v07": "encoder-failed"}


def test_other_features_in_the_folder_are_refused(tmp_path: Path) -> None:
    source = write_h5(tmp_path / "in.h5", videos())
    take(source, tmp_path / "store")
    with pytest.raises(UsageError, match=r"encoder.name was 'theirs', is 'ours' now.*--rebuild"):
        take(source, tmp_path / "store", origin=Origin({"name": "ours"}, {}))
    FeatureStore.open(tmp_path / "store").verify()
    take(source, tmp_path / "store", origin=Origin({"name": "ours"}, {}), rebuild=True).verify()
    extracted = write_store(tmp_path / "extracted", {"a": (make(1), np.zeros(1))}, {"encoder": {"name": "x"}})
    with pytest.raises(UsageError, match="other settings"):
        take(source, extracted.path)


@pytest.mark.parametrize("decoder", ["pyav", "imported"])
def test_features_said_to_be_like_a_store_bear_its_settings(decoder: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/pca.safetensors").write_bytes(b"the pca")
    info = {
        "encoder": {"name": "x", "dim": 99},
        "sampling": {"mode": "times", "fps": 2.0},
        "decoder": decoder,
        "pca": {"file": "pca.safetensors", "sha256": "0" * 64, "dim": 8},
    }
    made = write_store(tmp_path / "made", {"a": (make(2), np.arange(2) / 2)}, info)
    export_features(made, tmp_path / "out.h5", "hdf5")
    back = take(tmp_path / "out.h5", tmp_path / "back", origin=Origin.like(made))
    assert {key: back.info[key] for key in info} == info
    assert (tmp_path / "back/pca.safetensors").read_bytes() == b"the pca"
    np.testing.assert_array_equal(back.times("a"), made.times("a"))
    with pytest.raises(UsageError, match="its features have 8 dimensions, these 5"):
        take(write_h5(tmp_path / "other.h5", {"a": make(2, 5)}), tmp_path / "no", origin=Origin.like(made))


def test_memory_does_not_grow_with_the_number_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB of features in blocks of 2 MB."""
    monkeypatch.setattr(importing, "BLOCK_BYTES", 2 << 20)
    source = write_npz(tmp_path / "in.npz", {f"v{n:04d}": make(100, 100, n % 3) for n in range(2000)})
    tracemalloc.start()
    store = take(source, tmp_path / "store")
    imported = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for layout, name in (("npz", "out.npz"), ("hdf5", "out.h5")):
        export_features(store, tmp_path / name, layout, "float16")  # type: ignore[arg-type]
    exported = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert imported < 12 << 20 and exported < 4 << 20


def test_a_stopped_npy_export_goes_on_and_others_are_not_overwritten(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", {k: (v, np.arange(len(v)) * 0.7) for k, v in videos().items()}, {})
    export_features(store, tmp_path / "out", "npy")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    (tmp_path / "out/plain.npy").unlink()
    text = (tmp_path / "out/export.json").read_text().replace('"complete": true', '"complete": false')
    (tmp_path / "out/export.json").write_text(text)
    with pytest.raises(UsageError, match="an export that was stopped"):
        open_source(tmp_path / "out")
    export_features(store, tmp_path / "out", "npy")
    assert {path.name for path, time in kept.items() if path.stat().st_mtime_ns != time} == {"plain.npy"}
    assert set(take(tmp_path / "out", tmp_path / "back").video_ids) == set(IDS)
    with pytest.raises(UsageError, match="holds another export"):
        export_features(store, tmp_path / "out", "npy", "float16")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        export_features(store, tmp_path / "mine", "npy")
    with pytest.raises(UsageError, match="lies in the store"):
        export_features(store, tmp_path / "store/out", "npy")
    with pytest.raises(UsageError, match="1 of 2 are not in"):
        export_features(store, tmp_path / "some.h5", "hdf5", ids=["plain", "nobody"])


def test_the_commands_work_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_h5(tmp_path / "in.hdf5", videos() | {"bad": np.full((1, 8), np.nan)})
    flags = ["--from", str(source), "--output", str(tmp_path / "store"), "--encoder-name", "imac"]
    assert import_command.main([*flags, "--dry-run"]) == ExitCode.OK
    assert "hdf5, 8 videos; most have [8] a frame" in capfd.readouterr().out
    assert not (tmp_path / "store").exists()
    assert import_command.main(flags) == ExitCode.OK
    told = capfd.readouterr().out
    assert "7 videos" in told and "1 rejected" in told and "rejected, encoder-failed: 1" in told
    assert import_command.main([*flags, "--max-reject-share", "0.1"]) == ExitCode.REJECTS
    (tmp_path / "ids.txt").write_text("a b\nplain\n")
    out = ["--features", str(tmp_path / "store"), "--to", str(tmp_path / "out.npz"), "--layout", "npz"]
    assert export_command.main([*out, "--ids", str(tmp_path / "ids.txt"), "--dry-run"]) == ExitCode.OK
    assert "2 videos" in capfd.readouterr().out and not (tmp_path / "out.npz").exists()
    assert export_command.main([*out, "--ids", str(tmp_path / "ids.txt")]) == ExitCode.OK
    with np.load(tmp_path / "out.npz") as data:
        assert list(dict.fromkeys(data["video_ids"])) == ["a b", "plain"]
    with pytest.raises(SystemExit) as stop:
        import_command.main([*flags, "--fps", "0"])
    assert stop.value.code == ExitCode.USAGE
