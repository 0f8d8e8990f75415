"""Shards that change: what is still right moves over, what is new is decoded, what was taken down leaves the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.engine import Engine
from reelkin.extract.running import share, work
from reelkin.extract.running.records import record_path
from reelkin.extract.running.work import list_work
from reelkin.extract.storage.blocks import MappedBlock, map_block
from reelkin.extract.store import FeatureStore
from reelkin.shards import remove as remove_command
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.reader import ShardSet
from reelkin.shards.video.sampling import Sampling
from reelkin.tests.extract.conftest import NAMES, MakeDescriber, extract, make_shards, write_quarters


def copied(video_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(video_folder, tmp_path / "videos"))


def features_of(store: FeatureStore) -> dict[str, np.ndarray]:
    return {name: store.features(name) for name in store.video_ids}


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, features in found.items():
        np.testing.assert_array_equal(features, expected[name])


def test_added_videos_alone_are_decoded(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    folder = copied(video_folder, tmp_path)
    before = features_of(extract(make_shards(folder, tmp_path / "shards"), tmp_path / "store", tiny(), engine))
    write_quarters(folder / "new.mp4", 9, seconds=3)
    build(BuildConfig((folder,), tmp_path / "shards", shard_videos=2, workers=1, add=True))
    second = tiny()
    store = extract(ShardSet.open(tmp_path / "shards"), tmp_path / "store", second, engine)
    assert second.frames_encoded == store.num_frames("new") == 6
    after = features_of(store)
    del after["new"]
    assert_same_bits(after, before)


def test_a_block_that_another_rank_writes_anew_at_that_moment_is_not_taken_for_the_old_one(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(shards, tmp_path / "store", tiny(), engine, limit=1)

    def map_late(path: Path, dim: int) -> MappedBlock:
        record_path(path.parent, path.name).unlink(missing_ok=True)  # the first step of writing anew
        return map_block(path, dim)

    monkeypatch.setattr(share, "map_block", map_late)
    describer = tiny()
    store = extract(shards, tmp_path / "store", describer, engine)
    assert describer.frames_encoded == sum(store.num_frames(name) for name in store.video_ids) == 40


def test_a_video_that_shows_something_else_now_is_decoded_anew_and_its_neighbours_are_not(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    folder = copied(video_folder, tmp_path)
    shards = make_shards(folder, tmp_path / "shards", shard_videos=6)
    before = features_of(extract(shards, tmp_path / "store", tiny(), engine))
    write_quarters(folder / "b.mp4", 9, seconds=3)
    second = tiny()
    again = make_shards(folder, tmp_path / "shards again", shard_videos=6)
    store = extract(again, tmp_path / "store", second, engine)
    assert second.frames_encoded == store.num_frames("b") == 6
    after = features_of(store)
    assert np.abs(after.pop("b").astype(float) - before.pop("b")).max() > 0.1
    assert_same_bits(after, before)


def test_a_video_taken_out_of_the_shards_leaves_the_store_and_nothing_is_decoded(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    shards = make_shards(copied(video_folder, tmp_path), tmp_path / "shards", shard_videos=3)
    before = features_of(extract(shards, tmp_path / "store", tiny(), engine))
    gone = before.pop("b").tobytes()
    assert any(gone in path.read_bytes() for path in (tmp_path / "store").glob("*.safetensors"))
    assert remove_command.main([str(tmp_path / "shards"), "--video-ids", "b"]) == 0
    second = tiny()
    store = extract(ShardSet.open(tmp_path / "shards"), tmp_path / "store", second, engine)
    assert second.frames_encoded == 0
    assert_same_bits(features_of(store), before)
    assert {row.video_id: row.reason for row in store.rejects} == {"b": "removed", "text": "not-a-video"}
    assert not any(gone in path.read_bytes() for path in (tmp_path / "store").glob("*.safetensors"))
    store.verify()


def test_a_shard_all_of_whose_videos_are_gone_leaves_no_block(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    shards = make_shards(copied(video_folder, tmp_path), tmp_path / "shards")
    extract(shards, tmp_path / "store", tiny(), engine)
    assert remove_command.main([str(tmp_path / "shards"), "--video-ids", "c", "d"]) == 0
    store = extract(ShardSet.open(tmp_path / "shards"), tmp_path / "store", tiny(), engine)
    assert store.video_ids == ["a", "b", "e"]
    blocks = {block["name"] for block in store.info["blocks"]}
    assert {path.name for path in (tmp_path / "store").glob("*.safetensors")} == blocks


def test_pieces_bound_what_a_block_holds_and_do_not_depend_on_the_limit(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = features_of(extract(shards, tmp_path / "whole", tiny(), engine))
    monkeypatch.setattr(work, "PIECE_FRAMES", 9)  # a, b and c have 4, 6 and 8 samples: a block each
    sampling = Sampling(fps=2.0)
    pieces = list_work(shards, shards.videos, sampling)
    assert [[video.video_id for video in piece.videos] for piece in pieces] == [[name] for name in NAMES]
    assert len({piece.block for piece in pieces}) == 5
    assert [piece.block for piece in list_work(shards, shards.videos[:3], sampling)] == [p.block for p in pieces[:3]]
    few = extract(shards, tmp_path / "store", tiny(), engine, limit=3)
    assert few.video_ids == ["a", "b", "c"]
    rest = tiny()
    store = extract(shards, tmp_path / "store", rest, engine)
    assert rest.frames_encoded == sum(store.num_frames(name) for name in ("d", "e"))
    for name, features in features_of(store).items():
        np.testing.assert_allclose(features, whole[name], atol=1e-3)


def test_rejects_can_be_tried_again(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout may be the machine's fault: the videos beside it are not decoded again."""
    shards = make_shards(copied(video_folder, tmp_path), tmp_path / "shards", shard_videos=6)
    monkeypatch.setattr("reelkin.extract.decoding.pool.PYAV_CHILD", "reelkin.tests.extract.workers.slow_child")
    store = extract(shards, tmp_path / "store", tiny(), engine)
    assert {row.video_id: row.reason for row in store.rejects} == {"c": "timeout", "text": "not-a-video"}
    before = features_of(store)
    monkeypatch.undo()
    plain = tiny()
    assert len(extract(shards, tmp_path / "store", plain, engine)) == 4 and plain.frames_encoded == 0
    again = tiny()
    store = extract(shards, tmp_path / "store", again, engine, retry=("timeout",))
    assert again.frames_encoded == store.num_frames("c") == 8
    after = features_of(store)
    del after["c"]
    assert_same_bits(after, before)
