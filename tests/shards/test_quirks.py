"""What leads a counting decoder astray is found in the packets, and nothing is found in usual videos."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from reelkin.shards.video.container import Limits
from reelkin.shards.video.frames import pack_frames
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.quirks import PacketWatch, Quirk
from reelkin.tests.helpers import videos

CODECS = {
    "libvpx": ("mkv", {}),
    "libvpx-vp9": ("mkv", {}),
    "mjpeg": ("mp4", {"pix_fmt": "yuvj420p"}),
    "libx264": ("ts", {}),
    "libx265": ("ts", {}),
    "mpeg4": ("ts", {}),
}


def joined(target: Path, parts: list[Path]) -> Path:
    """The packets of several files one after the other in one stream."""
    with av.open(str(target), "w") as out:
        stream, offset = None, Fraction(0)
        for part in parts:
            with av.open(str(part)) as container:
                source = container.streams.video[0]
                stream = stream or out.add_stream_from_template(source)
                end = offset
                for packet in container.demux(source):
                    if packet.size:
                        end = max(end, offset + (packet.pts + (packet.duration or 0)) * packet.time_base)
                        shift = round(offset / packet.time_base)
                        packet.stream, packet.pts, packet.dts = stream, packet.pts + shift, packet.dts + shift
                        out.mux(packet)
                offset = end + Fraction(1, 10)
    return target


@pytest.mark.parametrize("codec", CODECS)
def test_a_change_of_size_shows_and_a_usual_video_has_no_quirk(codec: str, tmp_path: Path) -> None:
    container, settings = CODECS[codec]
    parts = []
    for number, size in enumerate([(320, 240), (192, 128), (320, 240)]):
        path = tmp_path / f"{number}.{container}"
        parts.append(videos.make_video(path, codec=codec, size=size, seconds=1.2, gop=5, **settings))
    assert make_plan(parts[0]).quirks == frozenset()
    same = joined(tmp_path / f"same.{container}", [parts[0], parts[2]])
    assert make_plan(same).quirks == frozenset()
    change = joined(tmp_path / f"change.{container}", parts[:2])
    assert len(videos.decode_all(change)) == 24
    assert Quirk.CHANGES in make_plan(change).quirks


def test_jpeg_pictures_whose_colours_are_sampled_differently_show(tmp_path: Path) -> None:
    def packed(name: str, subsampling: list[int]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, kind in enumerate(subsampling):
            picture = Image.fromarray(videos.picture(number))
            picture.save(folder / f"{number}.jpg", quality=90, subsampling=kind)
        path = tmp_path / f"{name}.mp4"
        pack_frames(folder, path, frame_rate=5, names="number", limits=Limits())
        return path

    assert make_plan(packed("alike", [2, 2, 2])).quirks == frozenset()
    assert make_plan(packed("mixed", [2, 2, 0])).quirks == {Quirk.CHANGES}


def test_av1_that_changes_size_shows(tmp_path: Path) -> None:
    packets = []
    for number, size in enumerate([(320, 240), (192, 128)]):
        path = videos.make_video(tmp_path / f"{number}.mkv", codec="libsvtav1", size=size, seconds=1)
        packets.append([packet for packet in av.open(str(path)).demux(video=0) if packet.size])
    assert make_plan(path).quirks == frozenset()
    for second, expected in ((packets[0], set()), (packets[1], {Quirk.CHANGES})):
        watch = PacketWatch("av1", b"")
        for packet in packets[0] + second:
            watch.see(packet)
        assert watch.quirks - {Quirk.DISORDER} == expected  # the second clip begins at 0 again


def test_h264_whose_parameters_lie_in_the_packets_of_an_mp4_shows_a_change(tmp_path: Path) -> None:
    big = videos.make_video(tmp_path / "big.ts", size=(320, 240), seconds=1)
    small = videos.make_video(tmp_path / "small.ts", size=(96, 64), seconds=1)
    assert Quirk.CHANGES in make_plan(joined(tmp_path / "change.mkv", [big, small])).quirks
    assert make_plan(joined(tmp_path / "same.mkv", [big, big])).quirks == frozenset()


def test_vp9_that_changes_size_without_a_keyframe_shows() -> None:
    def frame(*fields: tuple[int, int]) -> bytes:
        bits = "".join(f"{value:0{count}b}" for value, count in fields)
        return int(bits.ljust(320, "0"), 2).to_bytes(40, "big")

    start = [(2, 2), (0, 2), (0, 1)]
    key = frame(*start, (0, 1), (1, 1), (0, 1), (0x498342, 24), (2, 3), (0, 1), (319, 16), (239, 16))
    inter = [*start, (1, 1), (1, 1), (0, 1), (0, 2), (1, 8), (0, 12)]
    usual = frame(*inter, (1, 1))
    as_second_reference = frame(*inter, (0, 1), (1, 1))
    same = frame(*inter, (0, 3), (319, 16), (239, 16))
    smaller = frame(*inter, (0, 3), (159, 16), (119, 16))
    hidden = frame(*start, (1, 1), (0, 1), (0, 1), (0, 1), (0, 2), (1, 8), (0, 12), (1, 1))
    index = bytes([0xC9, 40, 0, 40, 0, 0xC9])
    shown_with_hidden = hidden + usual + index

    def quirks(*frames: bytes) -> set[Quirk]:
        watch = PacketWatch("vp9", b"")
        for data in frames:
            watch.see(av.Packet(data))
        return watch.quirks

    assert quirks(key, usual, as_second_reference, same, shown_with_hidden) == set()
    assert quirks(key, smaller) == {Quirk.CHANGES}
    assert quirks(key, usual, hidden) == {Quirk.HIDDEN}
    assert quirks(key, usual + usual + index) == {Quirk.HIDDEN}


def test_a_packet_of_vp8_that_shows_nothing_is_found(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.webm", codec="libvpx", seconds=1)
    watch = PacketWatch("vp8", b"")
    for number, packet in enumerate(p for p in av.open(str(path)).demux(video=0) if p.size):
        data = bytearray(bytes(packet))
        data[0] &= 0xFF if number != 4 else 0xEF
        watch.see(av.Packet(bytes(data)))
        assert watch.quirks == ({Quirk.HIDDEN} if number >= 4 else set())


def test_a_second_video_stream_shows_and_a_cover_picture_does_not(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "one.mp4", seconds=1)
    cover = videos.make_video(tmp_path / "cover.mjpeg", codec="mjpeg", pix_fmt="yuvj420p", seconds=0.1)
    for name, other in (("two.mp4", path), ("covered.mp4", cover)):
        with av.open(str(path)) as first, av.open(str(other)) as second, av.open(str(tmp_path / name), "w") as out:
            streams = [out.add_stream_from_template(container.streams.video[0]) for container in (first, second)]
            if other is cover:
                streams[1].disposition = Disposition.attached_pic
            for container, stream in zip((first, second), streams, strict=True):
                for packet in container.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        out.mux(packet)
    assert make_plan(tmp_path / "covered.mp4").quirks == frozenset()
    assert make_plan(tmp_path / "two.mp4").quirks == {Quirk.SEVERAL_STREAMS}


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_grey_h264_shows_although_its_pixel_format_does_not_say_so(container: str, tmp_path: Path) -> None:
    grey = make_plan(videos.make_video(tmp_path / f"grey.{container}", pix_fmt="gray", seconds=1))
    assert grey.probe.pix_fmt == "yuv420p" and grey.quirks == {Quirk.GREY}
    for profile in ("baseline", "high"):
        path = tmp_path / f"{profile}.{container}"
        assert make_plan(videos.make_video(path, options={"profile": profile}, seconds=1)).quirks == frozenset()


def test_interlaced_pictures_show(tmp_path: Path) -> None:
    options = {"flags": "+ildct+ilme"}
    path = videos.make_video(tmp_path / "a.ts", codec="mpeg2video", options=options, seconds=1)
    with av.open(str(path)) as container:
        flagged = next(container.decode(video=0)).interlaced_frame
    assert flagged == (Quirk.INTERLACED in make_plan(path).quirks)


def test_time_stamps_below_zero_show(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mp4", codec="libvpx-vp9", seconds=2)
    line = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-ss", "0.55", "-i", str(path), "-c", "copy"]
    below = tmp_path / "below.mkv"
    subprocess.run([*line, "-avoid_negative_ts", "disabled", str(below)], check=True, timeout=60)
    assert make_plan(below).pts[0] < 0
    assert make_plan(below).quirks == {Quirk.NEGATIVE_TIMES}


def test_equal_time_stamps_show(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mkv", codec="libvpx", seconds=1)

    def moved(name: str, times: dict[int, int]) -> Path:
        with av.open(str(path)) as source, av.open(str(tmp_path / name), "w") as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
                packet.stream = stream
                packet.pts = packet.dts = times.get(number, packet.pts)
                out.mux(packet)
        return tmp_path / name

    assert make_plan(moved("usual.mkv", {})).quirks == frozenset()
    assert make_plan(moved("equal.mkv", {4: 300})).quirks == {Quirk.EQUAL_TIMES}


@pytest.mark.parametrize(("codec", "found"), [("libvpx", {Quirk.DISORDER}), ("mpeg4", set())])
def test_time_stamps_out_of_order_show_where_pictures_are_never_reordered(
    codec: str, found: set[Quirk], tmp_path: Path
) -> None:
    path = videos.make_video(tmp_path / "a.mkv", codec=codec, seconds=1)
    watch = PacketWatch("vp8" if codec == "libvpx" else codec, b"")
    for number, packet in enumerate(packet for packet in av.open(str(path)).demux(video=0) if packet.size):
        packet.pts = {4: 500, 5: 400}.get(number, packet.pts)
        watch.see(packet)
    assert watch.quirks == found


@pytest.mark.parametrize("codec", ["vp8", "vp9", "av1", "mjpeg", "h264", "hevc", "mpeg4", "theora"])
def test_no_bytes_make_the_search_fail(codec: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(300):
        record = rng.bytes(int(rng.integers(0, 40)))
        if number % 2:
            record = b"\x01" + record[1:5] + bytes(int(rng.integers(0, 9))) + record[9:]
        watch = PacketWatch(codec, record)
        for _ in range(4):
            data = bytearray(rng.bytes(int(rng.integers(1, 60))))
            data[: int(rng.integers(0, 5))] = b"\x00\x00\x01\x67\x64"[: int(rng.integers(0, 6))]
            packet = av.Packet(bytes(data or b"\x00"))
            packet.is_keyframe = bool(rng.integers(0, 2))
            watch.see(packet)
        assert watch.quirks <= set(Quirk)
