"""Features of others that cannot be used: the video is rejected with its reason, or the file is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.extract.exchange.importing import open_source
from reelkin.extract.store import FeatureStore
from reelkin.tests.helpers.feature_files import make, take, write_h5, write_npys, write_npz

h5py = pytest.importorskip("h5py")

BAD = {
    "nan": (np.full((2, 8), np.nan, np.float32), "encoder-failed"),
    "big": (np.full((2, 8), 1e6, np.float32), "encoder-failed"),
    "wide": (np.ones((2, 9), np.float32), "bad-frames"),
    "regions": (np.ones((2, 3, 8), np.float32), "bad-frames"),
    "deep": (np.ones((2, 2, 2, 8), np.float32), "bad-frames"),
    "scalar": (np.float32(1), "bad-frames"),
    "empty": (np.zeros((0, 8), np.float32), "no-frames"),
    "integers": (np.ones((2, 8), np.int64), "bad-frames"),
    "complex": (np.ones((2, 8), np.complex64), "bad-frames"),
}


@pytest.mark.parametrize("layout", ["hdf5", "npy"])
def test_bad_videos_become_rejected_rows_and_the_others_are_kept(layout: str, tmp_path: Path) -> None:
    given = {name: array for name, (array, _) in BAD.items()} | {f"v{n}": make(2, seed=n) for n in range(12)}
    if layout == "hdf5":
        source = write_h5(tmp_path / "in.h5", given)
        with h5py.File(source, "a") as file:
            file["words"] = ["a", "b"]
            file[" space"] = make(1)
            file["con\ttrol"] = make(1)
            file["nothing"] = h5py.Empty("f4")
            file["inner/link"] = h5py.SoftLink("/v0")
            file["outside"] = h5py.ExternalLink("other.h5", "/v0")
            file["circle/itself"] = file["inner"]
            file["inner/circle"] = file["circle"]
    else:
        source = write_npys(tmp_path / "in", given)
        np.save(source / "words.npy", np.array(["a", "b"]))
        np.save(source / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
        (source / "pickle.npy").write_bytes(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.")
        whole = (source / "v0.npy").read_bytes()
        (source / "cut.npy").write_bytes(whole[:-3])
        (source / "cut_header.npy").write_bytes(whole[:40])
        (source / "zip.npy").write_bytes(write_npz(tmp_path / "x.npz", {"a": make(1)}).read_bytes())
        (source / "bomb.npy").write_bytes(whole.replace(b"(2, 8)", b"(2, 8000000000)".ljust(6))[: len(whole) + 9])
        (source / "no_bytes.npy").touch()
        (source / "no_link.npy").symlink_to(tmp_path / "nowhere")
        (source / "folder.npy").mkdir()
        (source / "not read.txt").write_text("x")
        (source / "circle").symlink_to(source)
    store = take(source, tmp_path / "store")
    store.verify()
    assert store.video_ids == sorted(f"v{n}" for n in range(12))
    reasons = {row.video_id: row.reason for row in store.rejects}
    assert reasons.items() >= {name: reason for name, (_, reason) in BAD.items()}.items()
    if layout == "hdf5":
        assert {
            " space": "bad-id",
            "con\\x09trol": "bad-id",
            "words": "bad-frames",
            "nothing": "bad-frames",
        }.items() <= reasons.items()
        assert reasons["outside"] == reasons["inner/link"] == "forbidden-format"
    else:
        damaged = ("pickle", "cut", "cut_header", "zip", "no_bytes")
        assert {reasons[name] for name in damaged} == {"damaged"}
        assert reasons["objects"] == reasons["words"] == "bad-frames" and reasons["no_link"] == "unreadable"
        assert reasons["bomb"] in ("damaged", "too-large")


def test_an_npz_with_bad_videos(tmp_path: Path) -> None:
    good = make(2)
    features = np.concatenate([good, np.full((1, 8), np.nan), good, good, make(1)]).astype(np.float32)
    ids = np.array(["a", "a", "nan", "late", "late", "a", "a", " x"])
    times = np.array([0, 1, 0, 0, np.nan, 2, 3, 0.0])
    np.savez(tmp_path / "in.npz", video_ids=ids, features=features, timestamps=times)
    store = take(tmp_path / "in.npz", tmp_path / "store")
    assert store.video_ids == ["a"] and store.num_frames("a") == 2
    rejected = [(row.video_id, row.reason) for row in store.rejects]
    assert rejected == [("nan", "encoder-failed"), ("late", "bad-frames"), ("a", "duplicate-id"), (" x", "bad-id")]


def test_sources_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    whole = write_h5(tmp_path / "in.h5", {f"v{n}": make(50, seed=n) for n in range(9)}).read_bytes()
    for name, data in (("cut.h5", whole[: len(whole) // 2]), ("noise.h5", b"x" * 999), ("empty.hdf5", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ReelkinError, match="cannot be read as HDF5"):
            open_source(tmp_path / name)
    write_h5(tmp_path / "none.h5", {})
    (tmp_path / "folder").mkdir()
    (tmp_path / "in.mat").touch()
    for name, words in (
        ("none.h5", "holds no dataset"),
        ("folder", "holds no .npy file"),
        ("gone", "there is no"),
        ("in.mat", "unknown ending"),
    ):
        with pytest.raises(UsageError, match=words):
            open_source(tmp_path / name)
    good = write_npz(tmp_path / "in.npz", {"a": make(900), "b": make(900)}).read_bytes()
    objects = {"video_ids": np.array(["a", {}], dtype=object), "features": make(2)}
    np.savez(tmp_path / "objects.npz", **objects)
    np.savez(tmp_path / "lengths.npz", video_ids=np.array(["a"]), features=make(2))
    np.savez(tmp_path / "other.npz", x=make(2))
    np.savez(tmp_path / "integers.npz", video_ids=np.array(["a"] * 2), features=np.ones((2, 8), int))
    (tmp_path / "cut.npz").write_bytes(good[:5000])
    (tmp_path / "noise.npz").write_bytes(b"PK" + b"x" * 99)
    for name in ("objects", "lengths", "other", "integers", "cut", "noise"):
        with pytest.raises(ReelkinError, match="cannot be read as an .npz of features"):
            open_source(tmp_path / f"{name}.npz")
    damaged = bytearray(good)
    damaged[good.index(make(900).tobytes()) + 5000] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(ReelkinError, match="is cut or damaged.*CRC"):
        take(tmp_path / "damaged.npz", tmp_path / "store")
    with pytest.raises(ReelkinError, match="no store"):
        FeatureStore.open(tmp_path / "store")
