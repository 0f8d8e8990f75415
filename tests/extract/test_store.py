"""The feature store: what was written comes back, damage is noticed, reading one video reads no other."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from reelkin.core.errors import DataError, Reason, ReelkinError
from reelkin.core.files import read_json
from reelkin.extract.store import FeatureStore, StoreRow, publish_store, to_float16, write_block, write_store

INFO = {"encoder": {"name": "test", "weights_sha256": "0" * 64}, "pca": None, "sampling": {"fps": 1.0}}


def make_videos(count: int = 5, dim: int = 6) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {f"v{i}": (rng.normal(size=(i + 1, dim)), np.arange(i + 1) * 0.5) for i in range(count)}


def test_every_video_comes_back_to_float16_rounding(tmp_path: Path) -> None:
    videos = make_videos()
    store = write_store(tmp_path / "store", videos, INFO, rejects=[StoreRow.rejected("bad", Reason.DAMAGED, "cut")])
    assert store.video_ids == list(videos) and len(store) == 5 and store.dim == 6
    assert "v3" in store and "bad" not in store and "unknown" not in store
    for video_id in reversed(store.video_ids):
        features, times = videos[video_id]
        assert store.features(video_id).dtype == np.float16
        np.testing.assert_array_equal(store.features(video_id), features.astype(np.float16))
        np.testing.assert_array_equal(store.times(video_id), times)
        assert store.num_frames(video_id) == len(features)
    np.testing.assert_array_equal(store.features("v4", 1, 3), videos["v4"][0][1:3].astype(np.float16))
    assert [(row.video_id, row.reason) for row in store.rejects] == [("bad", "damaged")]
    assert store.info["encoder"]["name"] == "test"
    store.verify()


def test_blocks_follow_the_documented_layout(tmp_path: Path) -> None:
    videos = make_videos(4)
    store = write_store(tmp_path, videos, INFO, block_bytes=40)
    assert [block["num_videos"] for block in store.info["blocks"]] == [2, 1, 1]
    tensors = safetensors.numpy.load_file(tmp_path / "features-000000.safetensors")
    assert {name: value.dtype for name, value in tensors.items()} == {
        "features": np.float16,
        "times": np.float64,
        "offsets": np.int64,
    }
    np.testing.assert_array_equal(tensors["offsets"], [0, 1, 3])
    np.testing.assert_array_equal(tensors["features"][1:3], store.features("v1"))


def test_returned_features_belong_to_the_caller(tmp_path: Path) -> None:
    store = write_store(tmp_path, make_videos(), INFO)
    store.features("v2")[:] = 0
    assert np.abs(store.features("v2")).max() > 0


def test_a_cut_block_is_noticed_at_open(tmp_path: Path) -> None:
    write_store(tmp_path, make_videos(), INFO)
    block = tmp_path / "features-000000.safetensors"
    block.write_bytes(block.read_bytes()[:-1])
    with pytest.raises(ReelkinError, match=r"features-000000\.safetensors has \d+ bytes instead of \d+"):
        FeatureStore.open(tmp_path)
    block.unlink()
    with pytest.raises(ReelkinError, match="is missing"):
        FeatureStore.open(tmp_path)


def test_a_changed_byte_is_noticed_by_verify(tmp_path: Path) -> None:
    store = write_store(tmp_path, make_videos(), INFO)
    block = tmp_path / "features-000000.safetensors"
    data = bytearray(block.read_bytes())
    data[-1] ^= 1
    block.write_bytes(data)
    FeatureStore.open(tmp_path)  # same size: only the hash can tell
    with pytest.raises(ReelkinError, match="has changed"):
        store.verify()


def test_an_unfinished_store_and_another_version_say_what_to_do(tmp_path: Path) -> None:
    write_block(tmp_path / "features-000000.safetensors", [np.ones((2, 3))], [np.arange(2.0)], 3)
    with pytest.raises(ReelkinError, match=r"no store\.json.*run extract/run\.py"):
        FeatureStore.open(tmp_path)
    write_store(tmp_path, make_videos(), INFO)
    index = (tmp_path / "store.json").read_text().replace('"version": 1', '"version": 9')
    (tmp_path / "store.json").write_text(index)
    with pytest.raises(ReelkinError, match="expected reelkin-features 1"):
        FeatureStore.open(tmp_path)


def test_a_manifest_of_another_store_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "a", make_videos(3), INFO)
    write_store(tmp_path / "b", make_videos(4), INFO)
    (tmp_path / "a/manifest.parquet").write_bytes((tmp_path / "b/manifest.parquet").read_bytes())
    with pytest.raises(ReelkinError, match=r"manifest\.parquet is missing or not the one"):
        FeatureStore.open(tmp_path / "a")


def test_reading_one_video_touches_only_its_rows(tmp_path: Path) -> None:
    """A block of 2 GiB of holes: reading it whole would show up in allocated memory."""
    frames, dim = 1 << 20, 1024
    header = (
        b'{"features":{"dtype":"F16","shape":[%d,%d],"data_offsets":[24,%d]},'
        b'"offsets":{"dtype":"I64","shape":[3],"data_offsets":[0,24]},'
        b'"times":{"dtype":"F64","shape":[%d],"data_offsets":[%d,%d]}}'
    ) % (frames, dim, 24 + frames * dim * 2, frames, 24 + frames * dim * 2, 24 + frames * dim * 2 + frames * 8)
    header += b" " * (-len(header) % 8)
    path = tmp_path / "features-000000.safetensors"
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(np.array([0, frames - 2, frames], np.int64).tobytes())
        file.truncate(8 + len(header) + 24 + frames * dim * 2 + frames * 8)
    block = {"name": path.name, "bytes": path.stat().st_size, "sha256": "", "num_videos": 2, "num_frames": frames}
    rows = [
        StoreRow("long", block=path.name, row=0, num_frames=frames - 2),
        StoreRow("short", block=path.name, row=1, num_frames=2),
    ]
    from reelkin.extract.store import Block

    publish_store(tmp_path, dim, INFO, [Block(**block)], rows)
    tracemalloc.start()
    store = FeatureStore.open(tmp_path)
    assert store.features("short").shape == (2, dim)
    assert store.features("long", 500_000, 500_003).shape == (3, dim)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_features_that_float16_cannot_hold_become_a_reject(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 2 frames are not finite") as caught:
        to_float16(np.array([[1.0, np.nan], [0, 0]]))
    assert caught.value.reason == Reason.ENCODER_FAILED
    with pytest.raises(DataError, match="exceed the float16 range"):
        to_float16(np.array([[70000.0]]))
    videos = make_videos(3)
    videos["v1"][0][0, 0] = np.inf
    store = write_store(tmp_path, videos, INFO)
    assert store.video_ids == ["v0", "v2"]
    assert [(row.video_id, row.reason) for row in store.rejects] == [("v1", "encoder-failed")]


def test_a_block_may_hold_no_video(tmp_path: Path) -> None:
    block = write_block(tmp_path / "features-000000.safetensors", [], [], 8)
    publish_store(tmp_path, 8, INFO, [block], [StoreRow.rejected("a", Reason.EMPTY_FILE, "no bytes")])
    store = FeatureStore.open(tmp_path)
    assert store.video_ids == [] and len(store.rejects) == 1
    store.verify()


def test_a_store_travels_to_another_process(tmp_path: Path) -> None:
    store = write_store(tmp_path, make_videos(), INFO)
    before = store.features("v3")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).features("v3"), before)


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected \[T, 3\]"):
        write_block(tmp_path / "x", [np.ones((2, 4))], [np.arange(2.0)], 3)
    with pytest.raises(ValueError, match="must not fall"):
        write_block(tmp_path / "x", [np.ones((2, 3))], [np.array([1.0, 0.0])], 3)
    with pytest.raises(ValueError, match="without frames"):
        write_block(tmp_path / "x", [np.ones((0, 3))], [np.zeros(0)], 3)
    assert list(tmp_path.iterdir()) == []


def test_the_same_videos_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_store(tmp_path / name, make_videos(), INFO) for name in "ab")
    assert read_json(first.path / "store.json") == read_json(second.path / "store.json")
