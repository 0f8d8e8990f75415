"""Two decoders behind one plan: DALI does what it can take, PyAV the rest, and neither harms the other's clips."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from reelkin.core.errors import ExitCode, Reason
from reelkin.extract import run
from reelkin.extract.decoding import pool as pool_module
from reelkin.extract.decoding.batching import BUDGETS
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.decoding.pool import DaliSettings, DecodePool, PoolSettings
from reelkin.extract.decoding.route import Hardware
from reelkin.extract.decoding.tasks import Again, Chunk, End, Source
from reelkin.shards.video.decode import decode_frames
from reelkin.shards.video.sampling import Sampling
from reelkin.tests.extract.conftest import make_shards
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.dali_there import need_dali

DALI = DaliSettings(Hardware(), 0, 1, BUDGETS["cpu"])
SETTINGS = PoolSettings(Sampling(fps=5.0), Geometry(48, 40), arena_bytes=1 << 18, dali=DALI)
NAMES = ("0_vp9.webm", "1_h264.mp4", "2_vp8.webm", "3_mjpeg.mp4", "4_hevc.mp4", "5_vp9.webm", "6_vp9.mp4")
BY_DALI = ("0_vp9.webm", "2_vp8.webm", "3_mjpeg.mp4", "5_vp9.webm", "6_vp9.mp4")
CODECS = {"vp9": "libvpx-vp9", "vp8": "libvpx", "h264": "libx264", "hevc": "libx265", "mjpeg": "mjpeg"}


@pytest.fixture(scope="module", autouse=True)
def _dali() -> None:
    need_dali()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of several codecs; treat as read-only."""
    made = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(NAMES):
        codec = CODECS[name[2:].partition(".")[0]]
        videos.make_video(
            made / name, seconds=1 + number % 3, codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p"
        )
    return made


def decoded_alone(path: Path) -> np.ndarray:
    frames = decode_frames(path, fps=5.0, short_side=48).frames
    top, left = (frames.shape[1] - 40) // 2, (frames.shape[2] - 40) // 2
    return frames[:, top : top + 40, left : left + 40]


def all_of(pool: DecodePool, paths: list[Path], kill: float = 0.0) -> dict[str, tuple[np.ndarray, End]]:
    found: dict[str, tuple[np.ndarray, End]] = {}
    frames: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    for source, item in pool.decode(Source(str(number), path) for number, path in enumerate(paths)):
        if isinstance(item, Chunk):
            frames.append(item.frames.copy())
        elif isinstance(item, Again):
            frames = []
        else:
            found[source.key] = np.concatenate([np.zeros((0, 40, 40, 3), np.uint8), *frames]), item
            frames = []
        dali = pool.dali and pool.dali.worker
        if kill and dali and pool.replaced < 4 and rng.random() < kill:
            os.kill(dali.pid, signal.SIGKILL)
    return found


def assert_near(pictures: np.ndarray, path: Path) -> None:
    expected = decoded_alone(path)
    assert pictures.shape == expected.shape
    assert np.abs(pictures.astype(int) - expected).mean() < 4  # of 255; another decoder, another filter


def test_dali_takes_its_codecs_and_pyav_the_others_in_one_order(folder: Path) -> None:
    paths = [folder / name for name in NAMES] * 3
    with DecodePool(SETTINGS) as pool:
        found = all_of(pool, paths)
        assert pool.retaken == 0 == pool.replaced
    assert list(found) == [str(number) for number in range(len(paths))]
    for path, (pictures, end) in zip(paths, found.values(), strict=True):
        assert end == End("dali" if path.name in BY_DALI else "pyav")
        if end.decoder == "pyav":
            np.testing.assert_array_equal(pictures, decoded_alone(path))
        assert_near(pictures, path)


def break_a_picture(path: Path, source: Path) -> Path:
    """Give a VP8 picture in the middle a first partition larger than its packet: the container stays whole."""
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    packet = packets[len(packets) // 2]
    data = source.read_bytes()
    assert data.count(packet) == 1 and packet[0] & 1  # no keyframe
    path.write_bytes(data.replace(packet, b"\xf1\xff\xff" + packet[3:]))
    return path


def test_what_dali_fails_at_goes_to_pyav_alone_and_is_counted(folder: Path, tmp_path: Path) -> None:
    good = videos.make_video(tmp_path / "good.webm", codec="libvpx", seconds=3, pattern="noise", gop=100)
    bad = break_a_picture(tmp_path / "bad.webm", good)
    paths = [folder / "0_vp9.webm", bad, folder / "2_vp8.webm", folder / "1_h264.mp4", bad, folder / "5_vp9.webm"]
    with DecodePool(SETTINGS) as pool:
        found = list(all_of(pool, paths).values())
        assert pool.retaken == 2
    for place in (1, 4):
        pictures, end = found[place]
        assert end.decoder == "pyav"
        assert end.error is not None and end.error.reason is Reason.DAMAGED  # PyAV says what is wrong
        assert len(pictures) < 15
    for place in (0, 2, 5):
        assert found[place][1] == End("dali")
        assert_near(found[place][0], paths[place])


def test_clips_that_dali_failed_at_are_counted_at_the_end_of_a_run(
    tmp_path: Path, tiny_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    good = videos.make_video(tmp_path / "videos/good.webm", codec="libvpx", seconds=3, pattern="noise", gop=100)
    break_a_picture(tmp_path / "videos/bad.webm", good)
    shards = make_shards(tmp_path / "videos", tmp_path / "shards")
    flags = ["--encoder", "torchscript", "--weights", str(tiny_file), "--size", "48", "--crop", "40", "--fps", "5"]
    where = ["--shards", str(shards.folder), "--output", str(tmp_path / "store")]
    assert run.main([*where, *flags, "--decoder", "dali"]) == ExitCode.OK
    told = capfd.readouterr().out
    assert "1 videos, 15 frames" in told and "rejected, damaged: 1" in told
    assert "PyAV decoded 1 clips that DALI failed at" in told


def test_a_dali_process_that_is_killed_again_and_again_changes_no_bit(folder: Path) -> None:
    paths = [folder / name for name in NAMES] * 4
    with DecodePool(replace(SETTINGS, arena_bytes=1)) as pool:
        undisturbed = all_of(pool, paths)
    with DecodePool(replace(SETTINGS, arena_bytes=1)) as pool:
        killed = all_of(pool, paths, kill=0.1)
        assert pool.replaced >= 2
        retaken = pool.retaken
    assert list(killed) == list(undisturbed)
    same = [
        np.array_equal(killed[key][0], undisturbed[key][0]) and killed[key][1] == end
        for key, (_, end) in undisturbed.items()
    ]
    assert same.count(False) <= retaken  # a clip at which its process died three times was PyAV's
    assert retaken <= 2


def test_a_clip_that_kills_the_dali_process_is_decoded_by_pyav(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "DALI_CHILD", "reelkin.tests.extract.workers.fatal_dali_child")
    shutil.copy(folder / "0_vp9.webm", tmp_path / "deadly.webm")
    paths = [folder / "5_vp9.webm", tmp_path / "deadly.webm", folder / "2_vp8.webm", folder / "1_h264.mp4"]
    with DecodePool(SETTINGS) as pool:
        found = list(all_of(pool, paths).values())
        assert pool.retaken == 1
    assert [end.decoder for _, end in found] == ["dali", "pyav", "dali", "pyav"]
    np.testing.assert_array_equal(found[1][0], decoded_alone(folder / "0_vp9.webm"))


def test_requests_larger_than_a_pipe_holds_do_not_stand_in_the_way_of_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_DALI_CLIPS", 4)  # each request then takes about 400 kB, and there are two
    found: dict[str, int] = {}

    def take_all() -> None:
        with DecodePool(replace(SETTINGS, sampling=Sampling(fps=4000.0))) as pool:
            for source, item in pool.decode(Source(str(number), folder / "0_vp9.webm") for number in range(8)):
                if isinstance(item, Chunk):
                    found[source.key] = found.get(source.key, 0) + len(item.frames)

    thread = threading.Thread(target=take_all, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert list(found.values()) == [3992] * 8  # the last instants are in the 2 ms that do not count
