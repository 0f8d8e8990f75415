"""TCA's published frame extraction against the library it was written with, OpenCV, where that is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reelkin.shards.video.decode import iter_frames
from reelkin.shards.video.legacy_scaling import resize_cubic
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Sampling, choose
from reelkin.tests.helpers import videos

BT_709 = 1  # FFmpeg's AVCOL_SPC_BT709


def by_opencv(path: Path, side: int) -> tuple[list[int], list[np.ndarray]]:
    """The kept pictures' numbers and the resized pictures, by OpenCV's own reader and resize."""
    import cv2

    reader = cv2.VideoCapture(str(path))
    rate = reader.get(cv2.CAP_PROP_FPS)
    step = round(25 if rate > 144 else rate)
    numbers: list[int] = []
    resized: list[np.ndarray] = []
    number = 0
    while True:
        read, picture = reader.read()
        if not read:
            break
        if number == 0 or (number + 1) % step == 0:
            factor = side / min(picture.shape[:2])
            numbers.append(number)
            resized.append(
                cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)[:, :, ::-1].astype(int)
            )
        number += 1
    return numbers + numbers[-1:], resized + resized[-1:]


def compare(path: Path, side: int) -> None:
    numbers, expected = by_opencv(path, side)
    plan = make_plan(path)
    samples = choose(plan, Sampling("tca-legacy"))
    assert samples.indices.tolist() == numbers, path
    found = [f.picture for f in iter_frames(path, plan=plan, samples=samples, short_side=side, scaling="tca")]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == np.uint8
        assert np.abs(ours - theirs).max() <= 1, path


def cubic_by_hand(line: np.ndarray, size: int, factor: float) -> np.ndarray:
    """One line, pixel by pixel, by the convolution kernel of Keys (1981) with a = -0.75."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0.0

    result = []
    for out in range(size):
        at = (out + 0.5) / factor - 0.5
        near = range(int(np.floor(at)) - 1, int(np.floor(at)) + 3)
        result.append(sum(line[min(max(n, 0), len(line) - 1)] * kernel(at - n) for n in near))
    return np.asarray(result)


@pytest.mark.parametrize(("shape", "side"), [((40, 70), 16), ((70, 41), 16), ((12, 9), 31), ((9, 9), 9), ((5, 200), 2)])
def test_the_resize_is_the_cubic_convolution_of_four_pixels(shape: tuple[int, int], side: int) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    factor = side / min(shape)
    height, width = (round(size * factor) for size in shape)
    rows = np.stack([cubic_by_hand(column, height, factor) for column in picture.reshape(shape[0], -1).T.astype(float)])
    rows = rows.T.reshape(height, shape[1], 3)
    whole = np.stack([[cubic_by_hand(rows[y, :, c], width, factor) for c in range(3)] for y in range(height)])
    found = resize_cubic(picture, side)
    assert found.shape == (height, width, 3)
    assert np.abs(found - np.clip(whole.transpose(0, 2, 1), 0, 255)).max() <= 1


@pytest.mark.parametrize(("size", "side"), [((96, 64), 32), ((97, 65), 50), ((64, 64), 256), ((640, 360), 256)])
def test_the_resize_agrees_with_opencv(size: tuple[int, int], side: int) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = videos.picture(1, size, "noise")
    factor = side / min(size)
    expected = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    assert np.abs(resize_cubic(picture, side) - expected.astype(int)).max() <= 1


def test_made_videos_give_opencvs_pictures(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    for number, fps in enumerate((1, 7.5, 23.976, 29.97, 59.94, 150)):
        name = tmp_path / f"{number}.{('mp4', 'mkv')[number % 2]}"
        compare(videos.make_video(name, fps=fps, seconds=2.2, pattern="noise"), 40)
    irregular = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, 60)).tolist()
    for name in ("irregular.mkv", "irregular.mp4"):
        compare(videos.make_video(tmp_path / name, times=irregular, pattern="noise"), 40)
    compare(videos.make_video(tmp_path / "one.mp4", seconds=0.1), 40)
    compare(videos.make_video(tmp_path / "odd.mp4", size=(97, 65), pix_fmt="yuv444p", pattern="noise"), 40)
    compare(videos.make_video(tmp_path / "a.avi", codec="mpeg4", fps=25), 256)
    turned = videos.make_video(tmp_path / "turned.mp4", pattern="noise", size=(130, 64))
    compare(videos.set_display_matrix(turned, 0, 1, -1, 0), 40)


@pytest.mark.slow
@pytest.mark.skipif(not videos.REAL_VIDEOS.is_dir(), reason="the real clips are not beside the repository")
def test_real_clips_give_opencvs_pictures() -> None:
    cv2 = pytest.importorskip("cv2")
    newer = int(cv2.__version__.split(".")[0]) > 4  # follows a video's colour matrix, and counts GIFs differently
    compared = 0
    for path in sorted(videos.REAL_VIDEOS.glob("*.*")):
        if path.suffix not in (".mp4", ".mkv", ".webm", ".gif"):
            continue
        first = videos.decode_all(path)[0]
        if first.format.name.endswith("10le") or (newer and (first.colorspace == BT_709 or path.suffix == ".gif")):
            continue
        compare(path, 256)
        compared += 1
    assert compared >= 15
