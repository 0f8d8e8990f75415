"""Decoding: the pictures that are shown at the sampled instants, upright, in the right colours, up to the damage."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelkin.core.errors import DataError, Reason
from reelkin.shards.video import conversion
from reelkin.shards.video.decode import DamagedVideo, FrameBatch, decode_frames, decode_whole, iter_frames
from reelkin.shards.video.orientation import Orientation
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Sampling, choose, sample_times
from reelkin.tests.helpers import videos

COUNTED = ["front.mp4", "vp9.webm", "bframes.avi", "picture.gif", "stream.ts", "stream.mpg", "raw.h264", "old.wmv"]
COUNTED += ["flash.flv", "hevc10.mp4", "yuv444.mp4", "sound.mp4", "one.mp4"]


def numbers(batch: FrameBatch) -> list[int]:
    """Which pictures of the counter pattern a batch holds."""
    return [videos.read_counter(frame) for frame in batch.frames]


@pytest.mark.parametrize("name", COUNTED)
def test_every_picture_comes_once_and_in_order(made: Path, name: str) -> None:
    batch = decode_frames(made / name, fps=None)
    assert numbers(batch) == list(range(len(videos.decode_all(made / name))))
    np.testing.assert_array_equal(batch.times, batch.pts)
    assert batch.times[0] == 0 and (np.diff(batch.times) > 0).all()


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("fps", [1.0, 3.0, 0.4])
def test_sampled_pictures_are_those_shown_at_the_instants(made: Path, name: str, fps: float) -> None:
    rate = 25 if name in ("stream.mpg", "raw.h264") else 10
    total = len(videos.decode_all(made / name))
    batch = decode_frames(made / name, fps=fps)
    # Worked out with whole numbers: picture n is shown from n/rate on.
    step = Fraction(fps).limit_denominator(10)
    expected = [int(k * rate / step) for k in range(total + 1) if k / step < Fraction(total, rate)]
    assert numbers(batch) == expected
    np.testing.assert_allclose(batch.times, np.arange(len(expected)) / fps)
    np.testing.assert_allclose(batch.pts, np.array(expected) / rate, atol=0.0021)


def test_variable_frame_rate_by_hand(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "v.mkv", times=[0, 0.1, 0.2, 1.5, 1.6, 3.05], options={"bf": "2"})
    batch = decode_frames(path)
    assert numbers(batch) == [0, 2, 4, 4]  # at 0, 1, 2 and 3 seconds; the last picture comes at 3.05
    np.testing.assert_array_equal(batch.times, [0, 1, 2, 3])
    np.testing.assert_allclose(batch.pts, [0, 0.2, 1.6, 1.6], atol=0.001)


def test_times_count_from_the_first_picture(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "late.mkv", times=[5 + n / 10 for n in range(25)])
    batch = decode_frames(path)
    assert numbers(batch) == [0, 10, 20]
    np.testing.assert_array_equal(batch.times, [0, 1, 2])


@settings(deadline=None, max_examples=200)
@given(
    gaps=st.lists(st.integers(1, 3000), min_size=0, max_size=30),
    last=st.integers(1, 3000),
    fps=st.sampled_from([0.3, 0.5, 1.0, 2.0, 7.0]),
)
def test_sample_times_agree_with_a_search_picture_by_picture(gaps: list[int], last: int, fps: float) -> None:
    milliseconds = np.cumsum([0, *gaps])
    duration = int(milliseconds[-1]) + last
    found = sample_times(milliseconds / 1000, duration / 1000, fps)
    instants = [k * 1000 / fps for k in range(10**6 if fps > 100 else int(duration * fps / 1000) + 2)]
    expected = [max(n for n, at in enumerate(milliseconds) if at <= t + 1e-3) for t in instants if t < duration - 2]
    assert found.tolist() == (expected or [0])


def test_sample_times_refuse_what_makes_no_sense() -> None:
    assert sample_times(np.array([7.0]), 0.0, 1.0).tolist() == [0]
    with pytest.raises(ValueError, match="fps is 0"):
        sample_times(np.array([0.0]), 1.0, 0.0)
    with pytest.raises(ValueError, match="empty"):
        sample_times(np.array([]), 1.0, 1.0)


def test_pictures_are_those_of_a_plain_decode(made: Path) -> None:
    reference = [frame.to_ndarray(format="rgb24").astype(int) for frame in videos.decode_all(made / "noise.mp4")]
    batch = decode_frames(made / "noise.mp4", fps=2)
    assert len(batch) == 6
    for frame, number in zip(batch.frames, range(0, 30, 5), strict=True):
        assert np.abs(frame - reference[number]).mean() < 3  # another interpolation of the chroma, no other picture


@pytest.mark.parametrize(
    ("matrix", "layout"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),  # a phone held upright: a quarter turn clockwise
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),  # a front camera
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
    ],
)
def test_display_matrices_turn_and_mirror_the_picture(tmp_path: Path, matrix, layout) -> None:  # type: ignore[no-untyped-def]
    path = videos.make_video(tmp_path / "turned.mp4", seconds=0.3, pattern="corners")
    videos.set_display_matrix(path, *matrix)
    expected = layout(videos.picture(0, pattern="corners")).astype(int)
    shown = decode_frames(path).frames[0]
    assert shown.shape == expected.shape
    assert np.median(np.abs(shown - expected)) < 12
    assert decode_frames(path, rotate=False).frames[0].shape == (64, 96, 3)
    small = decode_frames(path, short_side=32).frames[0]
    assert small.shape == ((48, 32, 3) if expected.shape[0] > expected.shape[1] else (32, 48, 3))


def test_degrees_are_clockwise(tmp_path: Path) -> None:
    turned = [Orientation.from_matrix(*m).degrees for m in ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))]
    assert turned == [0, 90, 180, 270]
    assert Orientation.from_matrix(0, 0, 0, 0) == Orientation()


@pytest.mark.skipif(not videos.REAL_VIDEOS.is_dir(), reason="the real clips are not beside the repository")
def test_the_real_rotated_clip_agrees_with_pyav_about_the_angle() -> None:
    path = videos.REAL_VIDEOS / "tc_nasa-13013-rotated.mp4"
    frame = videos.decode_all(path)[0]
    assert frame.rotation == 90  # PyAV counts anticlockwise
    expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).astype(int)
    shown = decode_frames(path).frames[0]
    assert shown.shape == (480, 270, 3) and np.abs(shown - expected).mean() < 2


def flat_video(luma: int, cb: int, cr: int, colorspace: int, color_range: int) -> bytes:
    """A lossless video of one YUV colour."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane, value in zip(frame.planes, (luma, cb, cr), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace, frame.color_range, frame.pts = colorspace, color_range, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def rgb_by_hand(luma: int, cb: int, cr: int, kr: float, kb: float, full: bool) -> np.ndarray:
    """ITU-R BT.601 and BT.709, from their defining equations."""
    y, b, r = (
        (luma / 255, (cb - 128) / 255, (cr - 128) / 255)
        if full
        else (
            (luma - 16) / 219,
            (cb - 128) / 224,
            (cr - 128) / 224,
        )
    )
    red, blue = y + 2 * (1 - kr) * r, y + 2 * (1 - kb) * b
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.round(np.array([red, green, blue]) * 255), 0, 255)


@pytest.mark.parametrize("short_side", [None, 32])
@pytest.mark.parametrize(
    ("space", "range_", "kr", "kb"),
    [(1, 1, 0.2126, 0.0722), (6, 1, 0.299, 0.114), (2, 0, 0.299, 0.114), (1, 2, 0.2126, 0.0722)],
)
def test_colours_follow_the_matrix_and_range_of_the_video(
    space: int, range_: int, kr: float, kb: float, short_side: int | None
) -> None:
    for yuv in ((63, 102, 240), (126, 128, 128), (235, 128, 128), (150, 60, 90)):
        shown = decode_frames(flat_video(*yuv, space, range_), short_side=short_side).frames[0, 10, 10].astype(int)
        expected = rgb_by_hand(*yuv, kr, kb, full=range_ == 2)
        assert np.abs(shown - expected).max() <= 2, (yuv, shown, expected)


@pytest.mark.parametrize(("size", "short_side", "shape"), [((97, 65), 32, (32, 48)), ((64, 96), 128, (192, 128))])
def test_short_side_keeps_the_proportions(
    tmp_path: Path, size: tuple[int, int], short_side: int, shape: tuple[int, int]
) -> None:
    path = videos.make_video(tmp_path / "odd.mp4", size=size, pix_fmt="yuv444p", seconds=0.5)
    batch = decode_frames(path, short_side=short_side)
    assert batch.frames.shape == (1, *shape, 3) and batch.frames.dtype == np.uint8
    assert repr(batch) == f"FrameBatch(frames=uint8{[1, *shape, 3]}, times=0.000..0.000 s)"
    with pytest.raises(ValueError, match="short_side is 0"):
        decode_frames(path, short_side=0)


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "fine.mp4", size=(256, 256), pattern="noise", seconds=0.1, options={"qp": "1"})
    small = decode_frames(path, short_side=32).frames[0].astype(float)
    assert small.std() < 0.3 * decode_frames(path).frames[0].std()  # 64 pixels become one


def test_a_change_of_size_within_a_video_gives_pictures_of_the_first_size(tmp_path: Path) -> None:
    first = videos.make_video(tmp_path / "a.h264", seconds=1, fps=25, size=(96, 64)).read_bytes()
    second = videos.make_video(tmp_path / "b.h264", seconds=1, fps=25, size=(64, 64)).read_bytes()
    batch = decode_frames(first + second, fps=None)
    assert batch.frames.shape == (50, 64, 96, 3)
    assert numbers(batch) == [*range(25), *range(25)]


@pytest.mark.parametrize("name", ["noise.mp4", "h264.mkv", "vp8.webm", "mpeg4.avi"])
def test_a_cut_video_raises_with_the_good_pictures(made: Path, tmp_path: Path, name: str) -> None:
    whole = decode_frames(made / name, fps=None)
    cut = videos.make_truncated(tmp_path / name, made / name, keep=0.6)
    with pytest.raises(DamagedVideo) as caught:
        decode_frames(cut, fps=None)
    assert caught.value.reason is Reason.TRUNCATED
    partial = caught.value.partial
    assert partial is not None and 10 <= len(partial) < 30
    np.testing.assert_array_equal(partial.frames, whole.frames[: len(partial)])
    np.testing.assert_allclose(partial.times, whole.times[: len(partial)])


def test_damage_in_the_middle_keeps_what_was_good_and_only_that(made: Path, tmp_path: Path) -> None:
    found = 0
    for name in ("noise.mp4", "h264.mkv", "vp8.webm", "mpeg4.avi", "stream.ts"):
        whole = decode_frames(made / name, fps=None)
        for seed in range(4):
            damaged = videos.make_damaged(tmp_path / name, made / name, seed=seed, start=0.5)
            try:
                batch = decode_frames(damaged, fps=None)
            except DataError as error:
                found += 1
                partial = getattr(error, "partial", None)
                assert error.reason in (Reason.DAMAGED, Reason.TRUNCATED), (name, error)
                assert partial is not None and len(partial) <= len(whole), name
            else:  # bytes that no decoder notices
                assert len(batch) <= len(whole)
    assert found >= 10


def test_decode_whole_accepts_good_videos_and_names_damage(made: Path, tmp_path: Path) -> None:
    assert decode_whole(made / "noise.mp4") == 30
    with pytest.raises(DataError) as caught:
        decode_whole(videos.make_damaged(tmp_path / "bad.mp4", made / "noise.mp4", start=0.5))
    assert caught.value.reason is Reason.DAMAGED


def test_only_chosen_pictures_are_converted_one_at_a_time(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    plain = conversion.Converter.__call__

    def counting(self, frame):  # type: ignore[no-untyped-def]
        converted.append(frame.pts)
        return plain(self, frame)

    monkeypatch.setattr(conversion.Converter, "__call__", counting)
    plan = make_plan(made / "noise.mp4")
    frames = iter_frames(made / "noise.mp4", plan=plan, samples=choose(plan, Sampling()))
    assert next(frames).time == 0
    assert len(converted) == 1
    assert [f.time for f in frames] == [1, 2]
    assert len(converted) == 3


def test_a_picture_that_stays_is_converted_once_and_repeated(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "slides.mkv", times=[0, 5, 10, 10.1])
    batch = decode_frames(path)
    assert numbers(batch) == [0] * 5 + [1] * 5 + [2]


def test_threads_do_not_change_the_pictures(made: Path) -> None:
    one, many = (decode_frames(made / "noise.mp4", fps=None, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.frames, many.frames)


def test_what_is_no_video_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        decode_frames(videos.make_text(tmp_path / "text.mp4"))
    assert caught.value.reason is Reason.NOT_A_VIDEO
    assert getattr(caught.value, "partial", None) is None
