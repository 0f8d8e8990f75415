"""Extraction: the store holds what decoding and encoding each video alone gives, whatever else is in the shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from reelkin.core.engine import Engine
from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.files import sha256_bytes
from reelkin.extract.decoding.tasks import Source
from reelkin.extract.describe import Describer
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.running import share
from reelkin.extract.running.claims import share_out
from reelkin.extract.running.forecast import forecast
from reelkin.extract.running.work import list_work
from reelkin.extract.storage.removal import remove
from reelkin.extract.store import FeatureStore
from reelkin.shards.manifest import ClipRow, VideoRow
from reelkin.shards.reader import ShardSet
from reelkin.shards.video.decode import decode_frames
from reelkin.shards.video.sampling import Sampling
from reelkin.tests.extract.conftest import NAMES, MakeDescriber, TinyEncoder, extract, make_shards
from reelkin.tests.helpers import videos

SLOW = Sampling(fps=1.0)


def expected_features(path: Path, fps: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """One video decoded whole and encoded at once, without anything of the pipeline."""
    batch = decode_frames(path, fps=fps, short_side=48)
    height, width = batch.frames.shape[1:3]
    top, left = (height - 40) // 2, (width - 40) // 2
    cropped = batch.frames[:, top : top + 40, left : left + 40]
    with torch.no_grad():
        features = TinyEncoder()(torch.from_numpy(cropped.transpose(0, 3, 1, 2).copy()))
    return features.numpy(), batch.times


def assert_holds(store: FeatureStore, folder: Path, names: tuple[str, ...]) -> None:
    assert sorted(store.video_ids) == sorted(names)
    for name in names:
        features, times = expected_features(folder / f"{name}.mp4")
        np.testing.assert_allclose(store.features(name), features, atol=1e-3)
        np.testing.assert_allclose(store.times(name), times)


def test_the_store_holds_each_video_as_if_extracted_alone(
    shards: ShardSet, video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    store = extract(shards, tmp_path / "store", tiny(), engine)
    assert_holds(store, video_folder, NAMES)
    assert store.video_ids == list(NAMES)  # in order of id
    assert [(row.video_id, row.reason) for row in store.rejects] == [("text", "not-a-video")]
    assert len(store.info["blocks"]) == 3 and store.dim == 12
    assert store.info["sampling"] == {"mode": "times", "fps": 2.0} and store.info["shards_sha256"] == shards.sha256
    assert store.info["encoder"]["preprocessing"] == {"short_side": 48, "crop": 40, "input": "uint8", "scaling": "area"}
    assert store.row("c").duration_seconds == pytest.approx(4.0)
    store.verify()


@pytest.mark.parametrize("settings", [{"batch_frames": 1}, {"batch_frames": 3, "workers": 3}])
def test_batches_and_threads_do_not_change_the_features(
    settings: dict, shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    usual = extract(shards, tmp_path / "usual", tiny(), engine)
    other = extract(shards, tmp_path / "other", tiny(**settings), engine)
    for name in NAMES:
        np.testing.assert_allclose(other.features(name), usual.features(name), atol=1e-3)
        np.testing.assert_array_equal(other.times(name), usual.times(name))


def test_a_video_that_breaks_in_the_decoder_is_rejected_and_its_neighbours_stay(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    """Its index and first picture are good, so that only decoding can find the damage."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "c"):
        shutil.copy(video_folder / f"{name}.mp4", folder)
    good = videos.make_video(tmp_path / "noise.mp4", seconds=4, pattern="noise")
    videos.make_damaged(folder / "b.mp4", good)
    shards = make_shards(folder, tmp_path / "shards", shard_videos=3)
    assert [row.status for row in shards.videos] == ["ok"] * 3
    store = extract(shards, tmp_path / "store", tiny(), engine)
    assert_holds(store, video_folder, ("a", "c"))
    (reject,) = store.rejects
    assert (reject.video_id, reject.reason, reject.num_frames, reject.row) == ("b", "damaged", 0, -1)
    assert reject.detail and reject.duration_seconds == pytest.approx(4.0)


def test_output_that_is_not_finite_rejects_its_video_only(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(video_folder / "a.mp4", folder)
    with av.open(str(folder / "red.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(10):
            picture = np.zeros((64, 96, 3), np.uint8)
            picture[..., 0 if number == 5 else 2] = 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    store = extract(make_shards(folder, tmp_path / "shards"), tmp_path / "store", tiny(), engine)
    assert_holds(store, video_folder, ("a",))
    (reject,) = store.rejects
    assert (reject.video_id, reject.reason) == ("red", "encoder-failed")
    assert "1 of 2 frames" in reject.detail


def test_a_rerun_does_only_what_is_missing(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    output = tmp_path / "store"
    first = tiny()
    before = extract(shards, output, first, engine).info
    again = tiny()
    assert extract(shards, output, again, engine).info == before
    assert first.frames_encoded > 0 and again.frames_encoded == 0
    # a run that was stopped: one block and the store's index are not there yet
    (output / "store.json").unlink()
    block = output / before["blocks"][1]["name"]
    block.unlink()
    third = tiny()
    assert extract(shards, output, third, engine).info == before
    assert 0 < third.frames_encoded == before["blocks"][1]["num_frames"]


def test_a_store_in_the_making_is_not_opened(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "store"
    info = extract(shards, output, tiny(), engine).info
    (output / info["blocks"][2]["name"]).unlink()

    class Stop(Exception):
        pass

    def fail(*arguments: object) -> None:
        raise Stop

    monkeypatch.setattr("reelkin.extract.running.share.write_block", fail)
    with pytest.raises(Stop):
        extract(shards, output, tiny(), engine)
    with pytest.raises(ReelkinError, match=r"no finished feature store"):
        FeatureStore.open(output)


def test_other_settings_are_refused_unless_asked(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    output = tmp_path / "store"
    extract(shards, output, tiny(), engine)
    with pytest.raises(UsageError, match=r"fps was 2\.0, is 1\.0 now.*--rebuild"):
        extract(shards, output, tiny(sampling=SLOW), engine)
    assert FeatureStore.open(output).info["sampling"]["fps"] == 2.0  # the refusal left the store whole
    assert extract(shards, output, tiny(sampling=SLOW), engine, rebuild=True).info["sampling"]["fps"] == 1.0


def test_a_rebuild_that_is_killed_leaves_no_record_beside_a_block_that_it_does_not_speak_of(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "store"
    extract(shards, output, tiny(), engine)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(share, "write_block", killed)
        with pytest.raises(KeyboardInterrupt):
            extract(shards, output, tiny(sampling=SLOW), engine, rebuild=True)
    assert len(list(output.glob("features-*.json"))) == 2 and not (output / "store.json").exists()
    assert extract(shards, output, tiny(sampling=SLOW), engine, rebuild=True).info["sampling"]["fps"] == 1.0


def test_a_weights_file_that_bears_another_name_is_the_same(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, tiny_file: Path, engine: Engine
) -> None:
    extract(shards, tmp_path / "store", tiny(), engine)
    shutil.copy(tiny_file, tmp_path / "renamed.pt")
    encoder = build_encoder(EncoderSpec("torchscript", str(tmp_path / "renamed.pt"), 48, 40))
    with Describer(encoder, sampling=Sampling(fps=2.0), workers=1) as again:
        extract(shards, tmp_path / "store", again, engine)
        assert again.frames_encoded == 0


def test_a_describer_does_one_thing_at_a_time(video_folder: Path, tiny: MakeDescriber) -> None:
    describer = tiny()
    sources = [Source(name, video_folder / f"{name}.mp4") for name in NAMES]
    under_way = describer.describe(sources)
    next(under_way)
    with pytest.raises(RuntimeError, match="earlier call"):
        next(describer.describe(sources))
    assert len(list(under_way)) == 4  # which is none the worse for it
    assert len(list(describer.describe(sources))) == 5


def test_a_limit_takes_the_first_and_a_later_run_takes_the_rest(
    shards: ShardSet, video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    output = tmp_path / "store"
    store = extract(shards, output, tiny(), engine, limit=3)
    assert_holds(store, video_folder, ("a", "b", "c"))
    assert store.rejects == [] and store.info["limit"] == 3
    rest = tiny()
    store = extract(shards, output, rest, engine)
    assert_holds(store, video_folder, NAMES)
    assert rest.frames_encoded == sum(store.num_frames(name) for name in ("d", "e"))  # c was kept
    assert "limit" not in store.info and len(store.rejects) == 1


def fake_shards(folder: Path, clips: dict[str, list[tuple[str, Path, float]]]) -> SimpleNamespace:
    """Files that hold clips one after the other: ``{shard: [(video_id, file, start_seconds)]}``."""
    rows: dict[str, list[ClipRow]] = {}
    folder.mkdir()
    for shard, entries in clips.items():
        rows[shard] = []
        with open(folder / shard, "wb") as file:
            for number, (video_id, path, begin) in enumerate(entries):
                data = path.read_bytes()
                place = (begin, 2.0, 20, len(data), sha256_bytes(data), file.tell())
                rows[shard].append(ClipRow(video_id, shard, f"{number:06d}", "mp4", *place))
                file.write(data)
    ids = sorted({video_id for entries in clips.values() for video_id, _, _ in entries})
    return SimpleNamespace(
        folder=folder,
        videos=[VideoRow(video_id, "ok", duration_seconds=5.0) for video_id in ids],
        shard_names=list(clips),
        clips_of=rows.__getitem__,
        sha256="0" * 64,
    )


def test_clips_of_one_video_are_joined_in_order_of_time(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    a, b = video_folder / "a.mp4", video_folder / "b.mp4"
    clips = fake_shards(
        tmp_path / "shards", {"clips-000000.tar": [("long", b, 2.0), ("short", b, 0.0), ("long", a, 0.0)]}
    )
    store = extract(clips, tmp_path / "store", tiny(), engine)  # type: ignore[arg-type]
    (features_a, times_a), (features_b, times_b) = expected_features(a), expected_features(b)
    np.testing.assert_allclose(store.features("long"), np.concatenate([features_a, features_b]), atol=1e-3)
    np.testing.assert_allclose(store.times("long"), np.concatenate([times_a, times_b + 2.0]))
    np.testing.assert_allclose(store.features("short"), features_b, atol=1e-3)


def test_one_damaged_clip_rejects_the_whole_video(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    a = video_folder / "a.mp4"
    (tmp_path / "empty.mp4").touch()
    clips = fake_shards(
        tmp_path / "shards", {"clips-000000.tar": [("x", a, 0.0), ("x", tmp_path / "empty.mp4", 2.0), ("y", a, 0.0)]}
    )
    store = extract(clips, tmp_path / "store", tiny(), engine)  # type: ignore[arg-type]
    assert store.video_ids == ["y"]
    assert [(row.video_id, row.reason) for row in store.rejects] == [("x", "empty-file")]


def test_a_video_of_which_no_picture_was_sampled_is_rejected(
    video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    a = video_folder / "a.mp4"  # 2 seconds, which from 0.5 on hold no multiple of 10 seconds
    late = fake_shards(tmp_path / "shards", {"clips-000000.tar": [("x", a, 0.5), ("y", a, 0.0)]})
    store = extract(late, tmp_path / "store", tiny(sampling=Sampling(fps=0.1)), engine)  # type: ignore[arg-type]
    assert store.video_ids == ["y"]
    assert [(row.video_id, row.reason) for row in store.rejects] == [("x", "no-frames")]


def test_a_forecast_counts_what_a_run_makes(shards: ShardSet, tmp_path: Path, engine: Engine) -> None:
    encoder = build_encoder(EncoderSpec("r3d_18", "random", 48, 40, clip_frames=4, clip_step=2))
    with Describer(encoder, sampling=Sampling(fps=2.0), workers=1) as describer:
        told = forecast(shards, None, describer, engine)
        frames = sum(block.num_frames for block in extract(shards, tmp_path / "store", describer, engine).blocks)
    assert f"about {frames} windows of frames (times), 512 dimensions each\n" in told
    assert f"disk: {frames * (2 * 512 + 8) / 1e6:.1f} MB" in told


def test_a_video_in_two_shards_is_an_error(video_folder: Path, tmp_path: Path) -> None:
    a = video_folder / "a.mp4"
    clips = fake_shards(tmp_path / "shards", {"clips-000000.tar": [("x", a, 0.0)], "clips-000001.tar": [("x", a, 2.0)]})
    with pytest.raises(ReelkinError, match="'x' lie in clips-000000"):
        list_work(clips, clips.videos, Sampling())  # type: ignore[arg-type]


def test_shares_hold_every_shard_once_and_weigh_alike(shards: ShardSet) -> None:
    work = list_work(shards, shards.videos, Sampling())
    shares = share_out(work, 2)
    assert sorted(item.shard for share in shares for item in share) == shards.shard_names
    longest = max(item.seconds for item in work)
    assert abs(sum(item.seconds for item in shares[0]) - sum(item.seconds for item in shares[1])) <= longest


@pytest.mark.parametrize("rebuild", [False, True])
def test_videos_taken_out_of_the_store_stay_out_and_nothing_is_done_again(
    rebuild: bool, shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    store = extract(shards, tmp_path / "store", tiny(), engine)
    kept = {name: store.features(name) for name in NAMES if name not in ("b", "e")}
    remove(tmp_path / "store", ["b", "e"])
    describer = tiny()
    again = extract(shards, tmp_path / "store", describer, engine, rebuild=rebuild)
    again.verify()
    assert again.video_ids == list(kept)
    assert {row.video_id: row.reason for row in again.rejects} == {
        "b": "removed",
        "e": "removed",
        "text": "not-a-video",
    }
    assert rebuild or describer.frames_encoded == 0
    for name, features in kept.items():
        np.testing.assert_allclose(again.features(name), features, atol=1e-3)
