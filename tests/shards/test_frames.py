"""Frame folders: names give order and time, JPEG images become packets untouched, bad images name themselves."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from reelkin.core.errors import DataError, Reason
from reelkin.shards.video.container import Limits
from reelkin.shards.video.decode import decode_frames
from reelkin.shards.video.frame_names import FrameNames, frame_times
from reelkin.shards.video.frames import pack_frames
from reelkin.shards.video.probe import probe


def smooth(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A picture of slow gradients, uint8 [H, W, 3]: JPEG keeps it within a few steps of 255."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    planes = [200 * x + 20, 200 * y + 20, np.full_like(x, 20 + 10 * (number % 20))]
    return np.stack(planes, axis=-1).astype(np.uint8)


def save(path: Path, number: int = 0, size: tuple[int, int] = (64, 48), mode: str = "RGB", **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth(number, size)).convert(mode).save(path, **settings)  # type: ignore[arg-type]
    return path


def pack(folder: Path, rate: float = 25.0, names: FrameNames = "auto", limits: Limits | None = None) -> Path:
    output = folder.parent / "packed.mp4"
    pack_frames(folder, output, frame_rate=rate, names=names, limits=limits or Limits())
    return output


def packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(video=0) if p.size]


def times(names: list[str], how: FrameNames = "auto", rate: int = 10) -> list[tuple[str, float]]:
    return [(name, float(time)) for name, time in frame_times(names, how, Fraction(rate))]


def refused(names: list[str], how: FrameNames = "auto") -> str:
    with pytest.raises(DataError) as caught:
        frame_times(names, how, Fraction(10))
    assert caught.value.reason is Reason.BAD_FRAMES
    return str(caught.value)


def test_numbers_order_pictures_padded_or_not_and_gaps_keep_their_time() -> None:
    assert times(["10.jpg", "9.jpg", "1.jpg", "2.png"]) == [
        ("1.jpg", 0.0),
        ("2.png", 0.1),
        ("9.jpg", 0.8),
        ("10.jpg", 0.9),
    ]
    for names in (
        ["image_00001.jpg", "image_00002.jpg"],
        ["img_0.JPG", "IMG_1.jpg"],
        ["frame000001.jpg", "frame2.jpg"],
    ):
        assert times(names) == [(names[0], 0.0), (names[1], 0.1)]
    assert times(["v1.2_g01_007.jpg", "v1.2_g01_008.jpg"])[1] == ("v1.2_g01_008.jpg", 0.1)
    assert times(["clip.0099.png", "clip.0100.png"])[1] == ("clip.0100.png", 0.1)
    assert times(["shot2.0001.png", "shot2.0003.png"])[1] == ("shot2.0003.png", 0.2)


def test_times_in_names_are_read_as_times() -> None:
    assert times(["12.48.jpg", "9.5.jpg", "100.0.jpg", "13.jpg"]) == [
        ("9.5.jpg", 0.0),
        ("12.48.jpg", 2.98),
        ("13.jpg", 3.5),
        ("100.0.jpg", 90.5),
    ]
    assert times(["t_0.04.jpg", "t_0.00.jpg"]) == [("t_0.00.jpg", 0.0), ("t_0.04.jpg", 0.04)]
    assert times(["1500ms.jpg", "250ms.jpg"]) == [("250ms.jpg", 0.0), ("1500ms.jpg", 1.25)]
    assert times(["2s.jpg", "10s.jpg"])[1] == ("10s.jpg", 8.0)
    assert times(["v_00-00-59.500.jpg", "v_00-01-02.jpg", "v_01-00-00.5.jpg"]) == [
        ("v_00-00-59.500.jpg", 0.0),
        ("v_00-01-02.jpg", 2.5),
        ("v_01-00-00.5.jpg", 3541.0),
    ]
    assert times(["40.jpg", "0.jpg", "80.jpg"], "milliseconds")[2] == ("80.jpg", 0.08)
    assert times(["40.jpg", "0.jpg"], "seconds")[1] == ("40.jpg", 40.0)
    assert times(["40.jpg", "0.jpg"])[1] == ("40.jpg", 4.0)  # plain digits are numbers
    assert times(["00_01_00.jpg", "00_00_59.jpg"], "seconds")[1] == ("00_01_00.jpg", 1.0)


def test_names_that_do_not_say_an_order_are_refused_by_name() -> None:
    assert "'01.jpg' and '1.jpg' bear the same number" in refused(["1.jpg", "01.jpg", "2.jpg"])
    assert "'1.jpg' and '1.png' bear the same number" in refused(["1.jpg", "1.png"])
    assert "'1.5.jpg' and '1.50.jpg' bear the same time" in refused(["1.5.jpg", "1.50.jpg"])
    assert "'cover.jpg' does not end in a number" in refused(["1.jpg", "cover.jpg", "2.jpg"])
    assert "'thumb_1.jpg' are not named alike" in refused(["img_1.jpg", "img_2.jpg", "thumb_1.jpg"])
    assert "'x.jpg' is not a time in seconds" in refused(["1.5.jpg", "x.jpg"], "seconds")
    assert "a number of 40 digits" in refused(["1" * 40 + ".jpg"])
    assert "'caf\\udce9.jpg'" in refused(["1.jpg", "caf\udce9.jpg"])


def test_usual_jpeg_images_become_packets_byte_for_byte_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "video"
    kinds: list[dict[str, object]] = [
        {"quality": 90},
        {"quality": 60, "subsampling": 0},
        {"progressive": True},
        {"subsampling": 1, "optimize": True},
    ]
    for number in range(1, 13):
        save(folder / f"img_{number}.jpg", number, **kinds[number % 4])
    (folder / "n_frames").write_text("12")
    save(folder / "flow_x_00001.jpg")
    save(folder / ".hidden.jpg")
    output = pack(folder)
    got = packets(output)
    assert [data for _, data in got] == [(folder / f"img_{n}.jpg").read_bytes() for n in range(1, 13)]
    assert [time for time, _ in got] == pytest.approx([n / 25 for n in range(12)], abs=1e-9)
    found = probe(output)
    assert (found.codec, found.container, found.num_frames, found.width) == ("mjpeg", "mp4", 12, 64)
    assert found.duration_seconds == pytest.approx(12 / 25) and found.keyframes.all()
    for number, frame in enumerate(decode_frames(output, fps=None).frames, 1):
        with Image.open(folder / f"img_{number}.jpg") as image:
            assert np.abs(frame.astype(int) - np.asarray(image.convert("RGB"))).mean() < 1.5


def test_gaps_and_time_stamps_are_the_times_of_the_packets(tmp_path: Path) -> None:
    for name in ("1", "2", "5", "100"):
        save(tmp_path / "gaps" / f"{name}.jpg")
    output = pack(tmp_path / "gaps", rate=29.97)
    assert [time for time, _ in packets(output)] == pytest.approx([0, 1 / 29.97, 4 / 29.97, 99 / 29.97], abs=1e-9)
    assert probe(output).pts_seconds == pytest.approx([0, 1 / 29.97, 4 / 29.97, 99 / 29.97], abs=1e-9)
    for name in ("12.48", "12.52", "13.1234567", "2000.0"):
        save(tmp_path / "stamps" / f"{name}.jpg")
    found = probe(pack(tmp_path / "stamps", rate=10))
    assert found.pts_seconds == pytest.approx([0, 0.04, 0.643457, 1987.52], abs=1e-6)
    assert found.duration_seconds == pytest.approx(1987.52 + 0.603457, abs=1e-6)  # the usual step once more
    save(tmp_path / "one" / "7.jpg")
    found = probe(pack(tmp_path / "one", rate=10))
    assert found.num_frames == 1 and found.duration_seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "mode", "settings"),
    [
        ("1.png", "RGB", {}),
        ("1.PNG", "RGBA", {}),
        ("1.png", "P", {}),
        ("1.bmp", "RGB", {}),
        ("1.ppm", "RGB", {}),
        ("1.tif", "RGB", {"compression": "tiff_lzw"}),
        ("1.webp", "RGB", {"lossless": True}),
        ("1.jpg", "CMYK", {"quality": 95}),
        ("1.jpeg", "RGB", {"quality": 95, "keep_rgb": True}),
    ],
)
def test_other_images_are_encoded_close_to_the_original(
    name: str, mode: str, settings: dict[str, object], tmp_path: Path
) -> None:
    save(tmp_path / "video" / name, 3, mode=mode, **settings)
    output = pack(tmp_path / "video")
    frame = decode_frames(output, fps=None).frames[0]
    with Image.open(tmp_path / "video" / name) as image:
        assert np.abs(frame.astype(int) - np.asarray(image.convert("RGB"))).mean() < (4 if mode == "P" else 2)
    data = packets(output)[0][1]
    assert data != (tmp_path / "video" / name).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 48))


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    Image.fromarray(np.full((48, 64), 0x8000, np.uint16)).save(tmp_path / "video" / "1.png")
    assert np.abs(decode_frames(pack(tmp_path / "video"), fps=None).frames.astype(int) - 0x80).max() <= 2


def test_a_jpeg_that_says_it_lies_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    save(tmp_path / "video" / "1.jpg", 3, exif=exif, quality=95)
    output = pack(tmp_path / "video")
    found = probe(output)
    assert (found.width, found.height, found.rotation) == (48, 64, 0)
    frame = decode_frames(output, fps=None).frames[0]
    assert np.abs(frame.astype(int) - np.rot90(smooth(3), -1)).mean() < 2.5
    exif[0x0112] = 1
    upright = save(tmp_path / "upright" / "1.jpg", 3, exif=exif)
    assert packets(pack(tmp_path / "upright"))[0][1] == upright.read_bytes()


def spoiled(folder: Path, name: str, data: bytes, limits: Limits | None = None) -> DataError:
    """The error for a folder of two good images and one with ``data``."""
    save(folder / "1.jpg")
    save(folder / "2.jpg")
    (folder / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        pack(folder, limits=limits)
    assert repr(name) in str(caught.value)
    assert not (folder.parent / "packed.mp4").exists()
    return caught.value


def test_bad_images_are_rejected_by_name(tmp_path: Path) -> None:
    jpeg, png = save(tmp_path / "a.jpg", 1).read_bytes(), save(tmp_path / "a.png", 1).read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "turned.jpg", 1, exif=exif).read_bytes()
    cases = {
        "half.jpg": (jpeg[: len(jpeg) // 2], Reason.TRUNCATED),
        "header.jpg": (jpeg[:100], Reason.TRUNCATED),
        "tiny.jpg": (b"\xff\xd8", Reason.TRUNCATED),
        "turned.jpg": (turned[: len(turned) - 300], Reason.TRUNCATED),
        "half.png": (png[: len(png) // 2], Reason.TRUNCATED),
        "text.jpg": (b"not an image", Reason.BAD_FRAMES),
        "page.png": (b"<html>not found</html>", Reason.BAD_FRAMES),
        "empty.jpg": (b"", Reason.EMPTY_FILE),
        "marker.jpg": (jpeg[:2] + b"garbage!" + jpeg[10:], Reason.DAMAGED),
        "none.jpg": (b"\xff\xd8\xff\xd9\xff\xd9", Reason.DAMAGED),
        "size.jpg": (save(tmp_path / "b.jpg", 1, size=(64, 50)).read_bytes(), Reason.BAD_DIMENSIONS),
    }
    for label, (data, reason) in cases.items():
        extension = Path(label).suffix
        assert spoiled(tmp_path / label.replace(".", "_"), f"3{extension}", data).reason is reason, label


def test_an_image_that_grows_beyond_the_limits_is_never_decoded(tmp_path: Path) -> None:
    small = Limits(max_side=1000, max_pixels=100_000)
    png = save(tmp_path / "a.png", size=(900, 800)).read_bytes()
    assert spoiled(tmp_path / "png", "3.png", png, small).reason is Reason.BAD_DIMENSIONS
    jpeg = bytearray(save(tmp_path / "a.jpg").read_bytes())
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    assert spoiled(tmp_path / "jpeg", "3.jpg", bytes(jpeg)).reason is Reason.BAD_DIMENSIONS
    bomb = bytearray(save(tmp_path / "b.png").read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert spoiled(tmp_path / "bomb", "3.png", bytes(bomb)).reason is Reason.BAD_DIMENSIONS


def test_a_link_to_nowhere_a_folder_without_images_and_a_missing_folder_are_data_errors(tmp_path: Path) -> None:
    save(tmp_path / "video" / "1.jpg")
    (tmp_path / "video" / "2.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "video" / "3.jpg").mkdir()
    (tmp_path / "none").mkdir()
    for folder, reason in (("video", Reason.MISSING), ("none", Reason.NO_FRAMES), ("nowhere", Reason.MISSING)):
        with pytest.raises(DataError) as caught:
            pack(tmp_path / folder)
        assert caught.value.reason is reason


def test_an_absurd_number_is_too_long(tmp_path: Path) -> None:
    for name in ("1", "99999999999999999999"):
        save(tmp_path / "video" / f"{name}.jpg")
    with pytest.raises(DataError) as caught:
        pack(tmp_path / "video")
    assert caught.value.reason is Reason.TOO_LONG


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "video" / f"{number}.{'png' if number % 2 else 'jpg'}", number)
    first = pack(tmp_path / "video").read_bytes()
    assert pack(tmp_path / "video").read_bytes() == first


def test_a_frame_rate_out_of_range_is_a_value_error(tmp_path: Path) -> None:
    for rate in (0, -1, float("nan"), float("inf"), 1e-9):
        with pytest.raises(ValueError, match="frame_rate"):
            pack(tmp_path, rate)


_FULL_DISK = """
import resource, sys
from pathlib import Path
from reelkin.shards.video.container import Limits
from reelkin.shards.video.frames import pack_frames
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    pack_frames(Path(sys.argv[1]), Path(sys.argv[2]), frame_rate=25, names="auto", limits=Limits())
except OSError as error:
    print(error.errno)
"""


def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / "video" / f"{number}.jpg", number)
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path / "video"), str(tmp_path / "packed.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "27\n" and not (tmp_path / "packed.mp4").exists()
