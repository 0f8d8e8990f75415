"""Builds in which the clips are not the input files themselves: cut videos, frame folders, arrays."""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reelkin.shards import build as command
from reelkin.shards import writer
from reelkin.shards.packing import shard_work
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.reader import ShardSet
from reelkin.shards.video.decode import decode_frames, iter_frames
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Sampling, choose, first_instant, sample_times
from reelkin.tests.helpers import videos


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of nine seconds with a keyframe every second, and a short one."""
    folder = tmp_path_factory.mktemp("long")
    videos.make_video(folder / "a.mp4", seconds=9, fps=10, options={"g": "10", "sc_threshold": "0"})
    videos.make_video(folder / "b.mkv", seconds=9, fps=10, options={"g": "10", "sc_threshold": "0"}, pattern="noise")
    videos.make_video(folder / "short.mp4", seconds=2, fps=10)
    return folder


def test_long_videos_become_clips_that_together_show_the_same_pictures_at_the_same_times(
    long_videos: Path, tmp_path: Path
) -> None:
    build(BuildConfig((long_videos,), tmp_path / "out", clip_seconds=3.0))
    shards = ShardSet.open(tmp_path / "out")
    shards.verify()
    rows = {row.video_id: row for row in shards.videos}
    assert {name: row.num_clips for name, row in rows.items()} == {"a": 3, "b": 3, "short": 1}
    for name, path in (("a", long_videos / "a.mp4"), ("b", long_videos / "b.mkv")):
        clips = shards.read_clip(name)
        assert [clip.start_seconds for clip in clips] == pytest.approx([0.0, 3.0, 6.0], abs=1e-3)
        assert len({clip.key for clip in clips}) == 3 and rows[name].num_frames == 90
        assert sum(clip.meta["num_frames"] for clip in clips) == 90
        assert sum(clip.duration_seconds for clip in clips) == pytest.approx(rows[name].duration_seconds, abs=1e-3)
        assert rows[name].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert rows[name].bytes == path.stat().st_size
        whole = decode_frames(path, fps=None)
        parts = [decode_frames(clip.data, fps=None) for clip in clips]
        assert np.array_equal(np.concatenate([part.frames for part in parts]), whole.frames)
        times = np.concatenate([part.times + clip.start_seconds for part, clip in zip(parts, clips, strict=True)])
        assert times == pytest.approx(whole.times, abs=2e-3)
    assert shards.read_clip("short")[0].data == (long_videos / "short.mp4").read_bytes()
    assert not list((tmp_path / "out").glob(".*"))  # nothing of the clips' way is left


def test_cut_clips_are_the_same_bytes_for_any_number_of_workers(long_videos: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        build(BuildConfig((long_videos,), tmp_path / str(workers), clip_seconds=2.0, shard_videos=2, workers=workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_file_over_the_tar_limit_is_cut_or_rejected(
    long_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = (long_videos / "b.mkv").stat().st_size // 2
    monkeypatch.setattr(writer, "MEMBER_LIMIT_BYTES", limit)
    monkeypatch.setattr(shard_work, "MEMBER_LIMIT_BYTES", limit)
    build(BuildConfig((long_videos / "b.mkv",), tmp_path / "whole"))
    (row,) = ShardSet.open(tmp_path / "whole").videos
    assert row.reason == "too-large" and "--clip-seconds" in row.detail
    build(BuildConfig((long_videos / "b.mkv",), tmp_path / "cut", clip_seconds=3.0))
    assert ShardSet.open(tmp_path / "cut").videos[0].num_clips == 3
    build(BuildConfig((long_videos / "b.mkv",), tmp_path / "coarse", clip_seconds=8.0))
    (row,) = ShardSet.open(tmp_path / "coarse").videos
    assert row.reason == "too-large" and ShardSet.open(tmp_path / "coarse").num_clips == 0


def test_frame_folders_become_clips_of_their_jpegs_with_their_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, numbers in (("one", range(8)), ("two", range(1, 12))):
        (tmp_path / "in" / "class" / name).mkdir(parents=True)
        for number in numbers:
            picture = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(picture).save(tmp_path / "in" / "class" / name / f"{number}.jpg", quality=90, subsampling=0)
    (tmp_path / "in" / "broken").mkdir()
    (tmp_path / "in" / "broken" / "0.jpg").write_bytes(b"no picture")
    build(BuildConfig((tmp_path / "in",), tmp_path / "out", layout="frames", frame_rate=2.0))
    shards = ShardSet.open(tmp_path / "out")
    shards.verify()
    rows = {row.video_id: row for row in shards.videos}
    assert rows["broken"].status == "rejected" and "0.jpg" in rows["broken"].detail
    assert rows["class/one"].num_frames == 8 and rows["class/two"].num_frames == 11
    (clip,) = shards.read_clip("class/two")
    batch = decode_frames(clip.data, fps=None)
    assert batch.times == pytest.approx(np.arange(11) / 2.0)
    for picture, number in zip(batch.frames, range(1, 12), strict=True):  # 10 and 11 stand behind 9
        path = tmp_path / "in" / "class" / "two" / f"{number}.jpg"
        assert path.read_bytes() in clip.data
        assert np.abs(picture.astype(int) - np.asarray(Image.open(path)).astype(int)).mean() < 4


def test_arrays_become_clips_in_both_published_layouts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "in"
    (source / "two").mkdir(parents=True)
    shown = rng.integers(0, 255, (5, 4, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    np.save(source / "one.npy", shown)
    np.save(source / "two" / "anything.npy", shown[:3])
    np.save(source / "bad.npy", np.zeros((5, 4)))
    build(BuildConfig((source,), tmp_path / "out", layout="npy", frame_rate=5.0))
    shards = ShardSet.open(tmp_path / "out")
    assert {r.video_id: (r.status, r.num_frames) for r in shards.videos} == {
        "bad": ("rejected", 0),
        "one": ("ok", 5),
        "two": ("ok", 3),
    }
    batch = decode_frames(shards.read_clip("one")[0].data, fps=None)
    assert batch.times == pytest.approx(np.arange(5) / 5.0)
    assert np.abs(batch.frames.astype(int) - shown.astype(int)).mean() < 4


def test_a_disk_that_is_full_while_clips_are_cut_ends_the_build_and_blames_no_video(
    long_videos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(long_videos / "b.mkv", folder)
    limit = (folder / "b.mkv").stat().st_size // 8
    line = [sys.executable, command.__file__, "--videos", str(folder), "--clip-seconds", "3", "--output"]

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    out = tmp_path / "out"
    failed = subprocess.run([*line, str(out)], capture_output=True, text=True, preexec_fn=full, timeout=120)
    assert failed.returncode == 1 and str(out) in failed.stderr and "run the same command again" in failed.stderr
    assert not list(out.glob("*.tar")) and not (out / "shards.json").exists()
    again = subprocess.run([*line, str(out)], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert ShardSet.open(out).videos[0].num_clips == 3


@pytest.mark.parametrize(
    "fps", [1.0, 0.7, 3.3, 0.3]
)  # the cuts lie at whole seconds: off the grid of all but the first
def test_clips_are_sampled_at_the_instants_of_the_whole(long_videos: Path, tmp_path: Path, fps: float) -> None:
    build(BuildConfig((long_videos,), tmp_path / "out", clip_seconds=2.2))
    shards = ShardSet.open(tmp_path / "out")
    for name, path in (("a", long_videos / "a.mp4"), ("b", long_videos / "b.mkv")):
        whole = decode_frames(path, fps=fps)
        clips = shards.read_clip(name)
        plans = [make_plan(clip.data) for clip in clips]
        chosen = [choose(p, Sampling("times", fps), c.start_seconds) for p, c in zip(plans, clips, strict=True)]
        parts = [
            list(iter_frames(clip.data, plan=plan, samples=samples))
            for clip, plan, samples in zip(clips, plans, chosen, strict=True)
        ]
        times = [frame.time + clip.start_seconds for part, clip in zip(parts, clips, strict=True) for frame in part]
        assert len(clips) > 3 and times == pytest.approx(whole.times, abs=1e-6)
        assert np.array_equal(np.stack([frame.picture for part in parts for frame in part]), whole.frames)
        assert fps > 0.5 or not all(parts)  # a clip between two instants gives nothing


def test_the_first_instant_of_a_clip_is_the_next_one_of_its_video() -> None:
    assert [first_instant(1.0, start) for start in (0.0, 2.0, 1.9995, 2.25)] == pytest.approx([0, 0, 0.0005, 0.75])
    assert first_instant(4.0, 2.3) == pytest.approx(0.2)
    assert sample_times(np.arange(5) / 10, 0.5, 1.0, start_seconds=0.3).tolist() == []
    assert sample_times(np.arange(5) / 10, 0.5, 1.0, start_seconds=0.7).tolist() == [3]
