"""The video writer: pictures come back, at their times, from a file whose bytes repeat."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.shards.video.encode import ENCODERS, VideoWriter


def soft_pictures(count: int, width: int, height: int, seed: int = 0) -> list[np.ndarray]:
    """Smooth coloured pictures that change from one to the next: 4:2:0 and a codec keep such pictures well."""
    slopes = np.random.default_rng(seed).uniform(1, 4, (3, 2))
    y, x = np.mgrid[0:height, 0:width]
    pictures = []
    for index in range(count):
        waves = [np.sin(x / width * a + y / height * b + index / 3) for a, b in slopes]
        pictures.append(np.clip(np.stack(waves, axis=-1) * 90 + 128, 0, 255).astype(np.uint8))
    return pictures


def decoded(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [float(frame.time) for frame in frames]


def write(path: Path, pictures: list[np.ndarray], fps: float | Fraction = 12, **options: object) -> Path:
    height, width = pictures[0].shape[:2]
    with VideoWriter(path, width, height, fps, **options) as writer:  # type: ignore[arg-type]
        for picture in pictures:
            writer.write(picture)
    return path


@pytest.mark.parametrize("codec", sorted(ENCODERS))
def test_pictures_come_back_in_order_at_their_times(tmp_path: Path, codec: str) -> None:
    pictures = soft_pictures(8, 64, 48)
    for suffix in ENCODERS[codec].suffixes:
        path = write(tmp_path / f"a{suffix}", pictures, codec=codec, crf=ENCODERS[codec].best + 1)
        frames, times = decoded(path)
        assert np.allclose(times, np.arange(8) / 12, atol=0.001), suffix
        for frame, picture in zip(frames, pictures, strict=True):
            assert np.abs(frame.astype(int) - picture).mean() < 4, suffix


@pytest.mark.parametrize("codec", sorted(ENCODERS))
def test_same_pictures_same_bytes_wherever_the_memory_lies(tmp_path: Path, codec: str) -> None:
    pictures = soft_pictures(30, 160, 120)
    noise = np.random.default_rng(1).integers(-20, 20, pictures[0].shape)
    pictures = [np.clip(np.roll(noise, 2 * i, axis=1) + p, 0, 255).astype(np.uint8) for i, p in enumerate(pictures)]
    suffix = ENCODERS[codec].suffixes[0]
    contents = set()
    for repeat in range(5):
        # Blocks of rubbish, freed: whoever reads memory that it did not write sees different values each time.
        rubbish = [np.random.default_rng(repeat).bytes(2**size) for size in range(4, 20) for _ in range(4)]
        rubbish.clear()
        contents.add(write(tmp_path / f"{repeat}{suffix}", pictures, codec=codec).read_bytes())
    assert len(contents) == 1
    changed = [*pictures[:-1], 255 - pictures[-1]]
    assert write(tmp_path / f"c{suffix}", changed, codec=codec).read_bytes() not in contents


def test_flat_colours_keep_their_values(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    pictures = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    frames, _ = decoded(write(tmp_path / "a.mp4", pictures, crf=1))
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 4


def test_an_odd_picture_is_stored_with_its_last_row_and_column_twice(tmp_path: Path) -> None:
    pictures = soft_pictures(3, 63, 47)
    frames, _ = decoded(write(tmp_path / "a.mp4", pictures, crf=1))
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame[:47, :63].astype(int) - picture).mean() < 3
        assert np.abs(frame[:47, 63].astype(int) - picture[:, 62]).mean() < 6


def test_a_fractional_rate_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", soft_pictures(4, 32, 32), Fraction(30000, 1001))
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)


def test_keyframes_come_as_often_as_asked(tmp_path: Path) -> None:
    pictures = [soft_pictures(1, 32, 32)[0]] * 12
    for every, expected in ((4, [0, 4, 8]), (None, [0])):
        path = write(tmp_path / "a.mp4", pictures, keyframe_every=every)
        with av.open(str(path)) as container:
            keys = [index for index, frame in enumerate(container.decode(video=0)) if frame.key_frame]
        assert keys == expected


def test_an_error_while_writing_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", soft_pictures(2, 32, 32))
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="half way"), VideoWriter(path, 32, 32, 12) as writer:
        writer.write(soft_pictures(1, 32, 32)[0])
        raise RuntimeError("half way")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_no_pictures_is_an_error_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ReelkinError, match="no picture"), VideoWriter(tmp_path / "a.mp4", 32, 32, 12):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_another_size_or_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a uint8 picture"), VideoWriter(tmp_path / "a.mp4", 32, 32, 12) as w:
        w.write(np.zeros((32, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="expected a uint8 picture"), VideoWriter(tmp_path / "a.mp4", 32, 32, 12) as w:
        w.write(np.zeros((32, 32, 3), np.float32))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.mp4", {"codec": "h264"}, "choose one of"),
        ("a.webm", {"codec": "libx264"}, "change the suffix"),
        ("a.avi", {"codec": "libx264"}, "change the suffix"),
        ("a.mp4", {"crf": 52}, "0 .best. to 51"),
        ("a.mp4", {"codec": "mpeg4", "preset": "fast"}, "no presets"),
        ("a.mp4", {"fps": 0}, "fps is 0"),
        ("a.mp4", {"width": 0}, "0x32"),
    ],
)
def test_bad_arguments_say_what_to_do(tmp_path: Path, name: str, options: dict, said: str) -> None:
    arguments = {"width": 32, "height": 32, "fps": 12, **options}
    with pytest.raises(UsageError, match=said):
        VideoWriter(tmp_path / name, **arguments)
