"""DALI gives the pictures that are asked for, which their content shows, in the colours that PyAV gives them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reelkin.core.errors import ReelkinError
from reelkin.extract.decoding.dali_graph import MATRICES, DaliDecoder, DaliError, DaliSample, colour_correction
from reelkin.shards.video.container import Limits
from reelkin.shards.video.decode import iter_frames
from reelkin.shards.video.frames import pack_frames
from reelkin.shards.video.mjpeg import encode_jpeg
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Samples
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.dali_there import need_dali

VP8, VP9 = {"codec": "libvpx", "seconds": 3}, {"codec": "libvpx-vp9", "seconds": 3}
CLIPS: dict[str, dict[str, Any]] = {
    "vp9.webm": VP9,
    "vp9.mp4": VP9 | {"fps": 25, "gop": 9},
    "vp9_irregular.mkv": {"codec": "libvpx-vp9", "times": [0, 0.1, 0.15, 0.7, 1.9, 2.0, 4.0]},
    "vp9_odd.webm": VP9 | {"size": (161, 97)},
    "vp9_444.webm": VP9 | {"pix_fmt": "yuv444p"},
    "vp8.webm": VP8 | {"gop": 7},
    "vp8_sound.mkv": VP8 | {"sound_seconds": 3},
    "vp8_large.webm": VP8 | {"size": (640, 360), "seconds": 1},
    "one.webm": VP9 | {"seconds": 0.1},
    "mjpeg.mp4": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg_422.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
}


@pytest.fixture(scope="module", autouse=True)
def _dali() -> None:
    need_dali()


@pytest.fixture(scope="module")
def decoder() -> DaliDecoder:
    return DaliDecoder("cpu", threads=2, most_samples=16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    made = {name: videos.make_video(folder / name, **settings) for name, settings in CLIPS.items()}
    images = folder / "images"
    images.mkdir()
    for number in range(12):
        (images / f"{number:03d}.jpg").write_bytes(encode_jpeg(videos.picture(number, (120, 90))))
    made["frames.mp4"] = folder / "frames.mp4"
    pack_frames(images, made["frames.mp4"], frame_rate=5, names="number", limits=Limits())
    return made


def sample_of(path: Path, indices: Any, size: tuple[int, int] | None = None) -> DaliSample:
    plan = make_plan(path)
    probe = plan.probe
    width, height = size or (probe.width, probe.height)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return DaliSample(data, np.asarray(indices), probe.width, probe.height, width, height, plan.colour_matrix)


def by_pyav(path: Path, indices: Any, short_side: int) -> np.ndarray:
    plan, indices = make_plan(path), np.asarray(indices)
    samples = Samples(indices, plan.probe.pts_seconds[indices])
    frames = iter_frames(path, plan=plan, samples=samples, short_side=short_side, rotate=False)
    return np.stack([frame.picture for frame in frames])


def test_every_picture_of_every_kind_of_clip_is_the_one_asked_for(clips: dict[str, Path], decoder: DaliDecoder) -> None:
    batch = [sample_of(path, np.arange(make_plan(path).probe.num_frames)) for path in clips.values()]
    for name, pictures in zip(clips, decoder.decode(batch), strict=True):
        shown = [videos.read_counter(frame.to_ndarray(format="rgb24")) for frame in videos.decode_all(clips[name])]
        assert shown == list(range(len(shown)))  # of the reference itself
        assert [videos.read_counter(picture) for picture in pictures] == shown, name


def test_few_pictures_repeats_and_keyframes_come_in_the_order_asked_for(
    clips: dict[str, Path], decoder: DaliDecoder
) -> None:
    keyframes = np.flatnonzero(make_plan(clips["vp9.mp4"]).probe.keyframes)
    assert len(keyframes) > 3
    asked = {
        "vp9.webm": [29, 0, 29, 7],
        "vp8.webm": [0, 0, 0, 0],
        "vp9.mp4": keyframes,
        "vp9_irregular.mkv": [6, 5, 5],
        "mjpeg.mp4": [19],
        "frames.mp4": [2, 2, 11],
        "one.webm": [0, 0],
    }
    pictures = decoder.decode([sample_of(clips[name], indices, (48, 32)) for name, indices in asked.items()])
    for (name, indices), frames in zip(asked.items(), pictures, strict=True):
        assert frames.shape == (len(indices), 32, 48, 3) and frames.dtype == np.uint8
        assert [videos.read_counter(frame) for frame in frames] == list(indices), name


def test_clips_of_one_batch_have_their_own_sizes(clips: dict[str, Path], decoder: DaliDecoder) -> None:
    sizes = {"vp9.webm": (96, 64), "vp9_odd.webm": (106, 64), "vp8_large.webm": (455, 256), "frames.mp4": (341, 256)}
    pictures = decoder.decode([sample_of(clips[name], [1, 3], size) for name, size in sizes.items()])
    assert [frames.shape for frames in pictures] == [(2, height, width, 3) for width, height in sizes.values()]
    assert all([videos.read_counter(frame) for frame in frames] == [1, 3] for frames in pictures)


@pytest.mark.parametrize("number", [-1, 30, 10**6])
def test_a_number_out_of_range_is_an_error_and_no_black_picture(
    number: int, clips: dict[str, Path], decoder: DaliDecoder
) -> None:
    with pytest.raises(DaliError, match=f"frame index {number}"):
        decoder.decode([sample_of(clips["vp8.webm"], [0]), sample_of(clips["vp9.webm"], [0, number])])
    assert decoder.decode([sample_of(clips["vp9.webm"], [3])])[0].shape == (1, 64, 96, 3)  # goes on


def test_a_picture_of_another_size_than_announced_is_an_error(clips: dict[str, Path], decoder: DaliDecoder) -> None:
    sample = dataclasses.replace(sample_of(clips["vp9.webm"], [0]), stored_width=98)
    with pytest.raises(DaliError, match="of 96x64 came, where 1 of 98x64 were asked for"):
        decoder.decode([sample])


def test_damage_is_an_error_and_the_decoder_goes_on(tmp_path: Path, decoder: DaliDecoder) -> None:
    good = videos.make_video(tmp_path / "good.webm", codec="libvpx-vp9", pattern="noise", seconds=3)
    last = make_plan(good).probe.num_frames - 1
    bad = [
        videos.make_damaged(tmp_path / "flipped.webm", good, start=0.1, count=200),
        videos.make_truncated(tmp_path / "cut.webm", good),
        videos.make_text(tmp_path / "text.webm"),
        videos.make_empty(tmp_path / "empty.webm"),
        videos.make_video(tmp_path / "h264.mp4"),
    ]
    expected = decoder.decode([sample_of(good, [0, last])])[0]
    for path in bad:
        sample = dataclasses.replace(sample_of(good, [0, last]), data=np.fromfile(path, np.uint8))
        with pytest.raises(DaliError) as caught:
            decoder.decode([sample_of(good, [0]), sample])
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
        np.testing.assert_array_equal(decoder.decode([sample_of(good, [0, last])])[0], expected)


def test_a_list_of_files_is_refused_before_dali_sees_it(
    tmp_path: Path, decoder: DaliDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = videos.make_video(tmp_path / "secret.webm", codec="libvpx")
    monkeypatch.chdir(tmp_path)
    for make in (videos.make_ffconcat, videos.make_playlist):
        path = make(tmp_path / "list.mp4", target)
        sample = dataclasses.replace(sample_of(target, [0]), data=np.fromfile(path, np.uint8))
        with pytest.raises(DaliError, match="neither as MP4 nor as Matroska"):
            decoder.decode([sample])


def test_batches_of_no_use_are_the_callers_mistake(clips: dict[str, Path], decoder: DaliDecoder) -> None:
    sample = sample_of(clips["vp8.webm"], [0])
    for batch in ([], [sample] * 17, [sample_of(clips["vp8.webm"], [])]):
        with pytest.raises(ValueError, match="it takes 1 to 16 samples, each with pictures"):
            decoder.decode(batch)


def test_without_a_gpu_the_message_says_what_to_do() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ReelkinError, match="DALI cannot use GPU 3 .*nvidia-smi"):
        DaliDecoder("gpu", device_id=3)


def test_where_dali_is_missing_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delattr("nvidia.dali")
    with pytest.raises(ReelkinError, match=r"pip install 'reelkin\[dali\]'"):
        DaliDecoder()


def plain(path: Path, codec: str, pix_fmt: str, matrix: int, colour_range: int, values: tuple[int, int, int]) -> Path:
    """A clip of one colour, given as stored, with its colour matrix and range in the stream."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10, options={} if codec == "mjpeg" else {"crf": "4", "b": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, colour_range
        for number in range(3):
            frame = av.VideoFrame(64, 48, pix_fmt)
            for plane, value in zip(frame.planes, values, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.colorspace, frame.color_range = number, matrix, colour_range
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def as_the_standard_says(matrix: int, colour_range: int, values: tuple[int, int, int]) -> np.ndarray:
    """RGB by ITU-R BT.601, BT.709 or BT.2020, from R - Y, B - Y and the sum that is Y."""
    kr, kb = WEIGHTS[matrix]
    low, luma, chroma = (16, 219, 224) if colour_range == 1 else (0, 255, 255)
    y, cb, cr = (values[0] - low) / luma, (values[1] - 128) / chroma, (values[2] - 128) / chroma
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    return 255 * np.clip([r, (y - kr * r - kb * b) / (1 - kr - kb), b], 0, 1)


@pytest.mark.parametrize("colour_range", [1, 2])
@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
def test_colours_are_those_of_the_standards_and_of_pyav(
    matrix: int, colour_range: int, tmp_path: Path, decoder: DaliDecoder
) -> None:
    for values in ((120, 90, 190), (160, 150, 110), (60, 128, 128)):
        path = plain(tmp_path / "a.webm", "libvpx-vp9", "yuv420p", matrix, colour_range, values)
        assert make_plan(path).colour_matrix == matrix
        (ours,) = decoder.decode([sample_of(path, [1])])
        assert np.abs(ours - as_the_standard_says(matrix, colour_range, values)).max() <= 2.5
        assert np.abs(ours.astype(int) - by_pyav(path, [1], 48)).max() <= 3  # it rounds down


def test_jpeg_pictures_have_the_colours_of_pyav(tmp_path: Path, decoder: DaliDecoder) -> None:
    for pix_fmt in ("yuvj420p", "yuvj444p"):
        path = plain(tmp_path / "a.mp4", "mjpeg", pix_fmt, 5, 2, (120, 90, 200))
        (ours,) = decoder.decode([sample_of(path, [1])])
        assert np.abs(ours.astype(int) - by_pyav(path, [1], 48)).max() <= 1


def test_the_correction_of_colours_is_that_of_the_standards() -> None:
    # BT.709 red (Rec. ITU-R BT.709, item 3): Y 0.2126, Cb -0.2126 / 1.8556, Cr 0.5; read as BT.601 it is this RGB.
    y, cb, cr = 0.2126, -0.2126 / 1.8556, 0.5
    as_601 = np.array([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb])
    np.testing.assert_allclose(colour_correction(1) @ as_601, [1, 0, 0], atol=1e-5)
    for matrix in MATRICES:
        np.testing.assert_allclose(colour_correction(matrix) @ np.ones(3), 1, atol=1e-6)  # grey stays grey
    for matrix in (2, 5, 6):
        np.testing.assert_array_equal(colour_correction(matrix), np.eye(3))


@pytest.mark.parametrize("name", ["mdn_flower.webm", "vh_rocket.mkv"])
def test_real_clips_give_the_pictures_of_pyav(name: str, decoder: DaliDecoder) -> None:
    path = videos.REAL_VIDEOS / name
    if not path.exists():
        pytest.skip("the real clips are not there")
    indices = np.array([0, 13, 29, 30, 31, 60, 100])
    probe = make_plan(path).probe
    short = 128
    size = (round(probe.width * short / probe.height), short)
    (ours,) = decoder.decode([sample_of(path, indices, size)])
    around = np.unique(np.clip(indices[:, None] + np.arange(-2, 3), 0, 148))
    theirs = dict(zip(around.tolist(), by_pyav(path, around, short).astype(int), strict=True))
    for index, picture in zip(indices.tolist(), ours.astype(int), strict=True):
        off = {other: np.abs(picture - theirs[other]).mean() for other in around.tolist() if abs(other - index) <= 2}
        assert off[index] == min(off.values()) and off[index] < 1.5
