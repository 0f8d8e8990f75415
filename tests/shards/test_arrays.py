"""Arrays of pictures: every layout and type that is clear becomes a video, everything else says why not."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from reelkin.core.errors import DataError, Reason
from reelkin.shards.video.arrays import pack_array
from reelkin.shards.video.container import Limits
from reelkin.shards.video.decode import decode_frames
from reelkin.shards.video.probe import probe


def pictures(count: int = 5, height: int = 40, width: int = 56) -> np.ndarray:
    """uint8 [N, H, W, 3], slow gradients that JPEG keeps within a few steps, another blue for each."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [np.stack([x * 4, y * 5, np.full_like(x, 30 + 40 * n)], axis=-1) for n in range(count)]
    return np.stack(frames).astype(np.uint8)


def pack(path: Path, rate: float = 10.0, limits: Limits | None = None) -> Path:
    output = path.with_suffix(".mp4")
    pack_array(path, output, frame_rate=rate, limits=limits or Limits())
    return output


def packed(array: np.ndarray, tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "a.npy", array)
    return decode_frames(pack(tmp_path / "a.npy"), fps=None).frames


def difference(decoded: np.ndarray, expected: np.ndarray) -> float:
    assert decoded.shape == expected.shape
    return float(np.abs(decoded.astype(int) - expected).max())


def refused(path: Path, limits: Limits | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        pack(path, limits=limits)
    assert not path.with_suffix(".mp4").exists()
    return caught.value


def why(array: np.ndarray, tmp_path: Path) -> str:
    np.save(tmp_path / "bad.npy", array)
    error = refused(tmp_path / "bad.npy")
    assert error.reason is Reason.BAD_FRAMES
    return str(error)


def test_uint8_pictures_come_back_with_their_times(tmp_path: Path) -> None:
    colour = pictures()
    np.save(tmp_path / "a.npy", colour)
    output = pack(tmp_path / "a.npy", rate=12.5)
    found = probe(output)
    assert (found.codec, found.width, found.height, found.num_frames) == ("mjpeg", 56, 40, 5)
    assert found.pts_seconds == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])
    assert found.duration_seconds == pytest.approx(0.4)
    assert difference(decode_frames(output, fps=None).frames, colour) <= 6


def test_every_layout_and_type_gives_the_same_pictures(tmp_path: Path) -> None:
    colour = pictures()
    for same in (
        colour / np.float32(255),
        (colour / 255).astype(np.float64).astype(">f8"),
        (colour / 255).astype(np.float16),
        colour.astype(np.float32),
        np.asfortranarray(colour),
        np.asfortranarray(colour / 255),
    ):
        assert difference(packed(same, tmp_path), colour) <= 6
    grey = colour[..., 0]
    three = np.repeat(grey[..., None], 3, axis=-1)
    for same in (grey, grey[..., None], grey / 255.0, np.asfortranarray(grey)):
        assert difference(packed(same, tmp_path), three) <= 6


def test_a_black_video_of_floats_is_black_and_full_white_is_white(tmp_path: Path) -> None:
    assert packed(np.zeros((2, 8, 8, 3), np.float32), tmp_path).max() == 0
    assert packed(np.ones((2, 8, 8, 3), np.float32), tmp_path).min() == 255
    assert packed(np.full((2, 8, 8, 3), 255.0), tmp_path).min() == 255


def test_what_is_unclear_or_no_picture_is_refused_with_the_reason(tmp_path: Path) -> None:
    good = pictures() / 255
    assert "may be of 0..1 or of 0..255" in why(good * 1.3, tmp_path)
    assert "values from -1" in why(good * 2 - 1, tmp_path)
    assert "to 22000" in why(good * 25500, tmp_path)
    bad = good.copy()
    bad[3, 0, 0, 0] = np.nan
    assert "picture 3 holds values that are not finite" in why(bad, tmp_path)
    bad[3, 0, 0, 0] = np.inf
    assert "picture 3 holds values that are not finite" in why(bad, tmp_path)
    assert "type int64" in why(pictures().astype(np.int64), tmp_path)
    assert "type complex128" in why(good.astype(complex), tmp_path)
    assert "transpose N x C x H x W" in why(pictures().transpose(0, 3, 1, 2), tmp_path)
    assert "5 x 40 x 56 x 4" in why(np.zeros((5, 40, 56, 4), np.uint8), tmp_path)
    assert "a single picture" in why(pictures()[0], tmp_path)
    assert "no dimension" in why(np.array(3, np.uint8), tmp_path)
    assert "1 x 2 x 3 x 4 x 5" in why(np.zeros((1, 2, 3, 4, 5), np.uint8), tmp_path)


def test_damaged_and_foreign_files_are_data_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", pictures())
    data = (tmp_path / "good.npy").read_bytes()
    np.savez(tmp_path / "zip.npz", a=pictures())
    cases = {
        "cut": (data[:-1], Reason.TRUNCATED),
        "headless": (data[:20], Reason.DAMAGED),
        "short": (data[:7], Reason.DAMAGED),
        "empty": (b"", Reason.EMPTY_FILE),
        "text": (b"not an array", Reason.BAD_FRAMES),
        "zip": ((tmp_path / "zip.npz").read_bytes(), Reason.BAD_FRAMES),
        "pickle": (pickle.dumps(pictures()), Reason.BAD_FRAMES),
        "version": (data[:6] + b"\x09\x09" + data[8:], Reason.DAMAGED),
        "syntax": (data.replace(b"(5, 40,", b"(5, 40}"), Reason.DAMAGED),
        "negative": (data.replace(b"(5, 40, 56, 3), } ", b"(-5, 40, 56, 3), }"), Reason.DAMAGED),
        "vast": (data.replace(b"(5, 40, 56, 3)", b"(9999, 40,9,3)"), Reason.TRUNCATED),
    }
    for name, (content, reason) in cases.items():
        assert content != data
        (tmp_path / f"{name}.npy").write_bytes(content)
        assert refused(tmp_path / f"{name}.npy").reason is reason, name
    assert refused(tmp_path / "nowhere.npy").reason is Reason.MISSING
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), np.uint8))
    assert refused(tmp_path / "none.npy").reason is Reason.NO_FRAMES
    np.save(tmp_path / "flat.npy", np.zeros((3, 0, 8, 3), np.uint8))
    assert refused(tmp_path / "flat.npy").reason is Reason.BAD_DIMENSIONS


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harmed"),))  # type: ignore[return-value]


def test_objects_in_an_array_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([_Harmful()], object), allow_pickle=True)
    assert "Python objects" in str(refused(tmp_path / "objects.npy"))
    assert not (tmp_path / "harmed").exists()


def test_limits_hold(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pictures())
    assert refused(tmp_path / "a.npy", Limits(max_side=50)).reason is Reason.BAD_DIMENSIONS
    assert refused(tmp_path / "a.npy", Limits(max_seconds=0.3)).reason is Reason.TOO_LONG


def test_the_same_array_gives_the_same_bytes_and_packets_are_jpeg_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pictures())
    first = pack(tmp_path / "a.npy").read_bytes()
    assert pack(tmp_path / "a.npy").read_bytes() == first
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert all(bytes(p)[:2] == b"\xff\xd8" for p in container.demux(video=0) if p.size)


_SMALL_MEMORY = """
import resource, sys
from pathlib import Path
from reelkin.shards.video.arrays import pack_array
from reelkin.shards.video.container import Limits
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pack_array(Path(sys.argv[1]), Path(sys.argv[2]), frame_rate=10, limits=Limits())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_array(tmp_path: Path) -> None:
    assert resource.getpagesize()  # Linux: ru_maxrss is in KiB
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (400, 256, 256, 3))  # 300 MB
    array.flush()
    del array
    command = [sys.executable, "-c", _SMALL_MEMORY, str(tmp_path / "a.npy"), str(tmp_path / "a.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
