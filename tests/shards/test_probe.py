"""Probing: facts of good videos, a reason for each kind of bad one, and nothing good rejected."""

from __future__ import annotations

import csv
import os
import shutil
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from reelkin.core.errors import DataError, Reason
from reelkin.shards.video import container as container_module
from reelkin.shards.video.container import Limits, open_container
from reelkin.shards.video.probe import make_plan, probe
from reelkin.tests.helpers import videos

GOOD = (
    ("front.mp4", "mp4", "h264", 30, 3.0),
    ("end.mp4", "mp4", "h264", 30, 3.0),
    ("h264.mkv", "mkv", "h264", 30, 3.0),
    ("vp9.webm", "webm", "vp9", 30, 3.0),
    ("vp8.webm", "webm", "vp8", 30, 3.0),
    ("mpeg4.avi", "avi", "mpeg4", 30, 3.0),
    ("bframes.avi", "avi", "h264", 30, 3.0),
    ("picture.gif", "gif", "gif", 30, 3.0),
    ("stream.ts", "ts", "h264", 30, 3.0),
    ("stream.mpg", "mpg", "mpeg2video", 75, 3.0),
    ("raw.h264", "h264", "h264", 75, 3.0),
    ("old.wmv", "wmv", "wmv2", 30, 3.0),
    ("flash.flv", "flv", "h264", 30, 3.0),
    ("hevc10.mp4", "mp4", "hevc", 20, 2.0),
    ("yuv444.mp4", "mp4", "h264", 20, 2.0),
    ("sound.mp4", "mp4", "h264", 10, 1.0),
    ("one.mp4", "mp4", "h264", 1, 0.1),
)


def reason_of(source: Path | bytes, **limits: float) -> Reason | None:
    """The reason for which a source is rejected, or None."""
    try:
        probe(source, limits=Limits(**limits))  # type: ignore[arg-type]
    except DataError as error:
        assert str(error)
        return error.reason
    return None


@pytest.mark.parametrize(("name", "container", "codec", "num_frames", "seconds"), GOOD)
def test_facts_of_a_video_whatever_it_is_called(
    made: Path, tmp_path: Path, name: str, container: str, codec: str, num_frames: int, seconds: float
) -> None:
    disguised = shutil.copy(made / name, tmp_path / "clip.dat")
    for source in (made / name, Path(disguised), (made / name).read_bytes()):
        found = probe(source)
        assert (found.container, found.codec, found.num_frames) == (container, codec, num_frames)
        assert found.duration_seconds == pytest.approx(seconds, abs=0.01)
        assert found.fps == pytest.approx(num_frames / seconds, rel=0.01)
        expected = np.arange(num_frames) * seconds / num_frames
        np.testing.assert_allclose(found.pts_seconds, expected, atol=0.0011)  # Matroska counts milliseconds
        assert found.keyframes[0] and len(found.keyframes) == num_frames
        assert (found.width, found.height) == ((97, 65) if name == "yuv444.mp4" else (96, 64))


def test_time_stamps_of_variable_frame_rate_are_sorted_and_exact(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 1.5, 1.6, 3.05]
    for name in ("v.mp4", "v.mkv"):
        found = probe(videos.make_video(tmp_path / name, times=times, options={"bf": "3"}))
        np.testing.assert_allclose(found.pts_seconds, times, atol=0.0011)
        assert found.duration_seconds >= 3.05


def test_pictures_outside_of_an_edit_list_are_not_counted(made: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    with av.open(str(made / "front.mp4")) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts -= packet.time_base.denominator // 2
                packet.dts -= packet.time_base.denominator // 2
                packet.stream = stream
                out.mux(packet)  # the muxer hides what comes before time 0 with an edit list
    assert probe(cut).num_frames == len(videos.decode_all(cut)) < 30


@pytest.mark.skipif(not videos.REAL_VIDEOS.is_dir(), reason="the real clips are not beside the repository")
def test_every_real_clip_is_accepted_with_the_facts_of_its_list() -> None:
    rows = list(csv.DictReader((videos.REAL_VIDEOS / "MANIFEST.csv").open()))
    assert len(rows) == 25
    for row in rows:
        path = videos.REAL_VIDEOS / row["file"]
        found = probe(path)
        assert (found.codec, found.width, found.height) == (row["codec"], int(row["width"]), int(row["height"])), path
        assert abs(found.num_frames - int(row["decoded_frames"])) <= 1, path  # counted by another program
    assert probe(videos.REAL_VIDEOS / "tc_nasa-13013-rotated.mp4").rotation == 270


def test_each_kind_of_bad_file_has_its_reason(made: Path, tmp_path: Path) -> None:
    target = shutil.copy(made / "front.mp4", tmp_path / "target.mp4")
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    png = tmp_path / "still.mp4"
    av.VideoFrame.from_ndarray(videos.picture(0), format="rgb24").to_image().save(png, format="PNG")
    bad = tmp_path / "bad.mp4"
    cases = [
        (tmp_path / "nothing.mp4", Reason.MISSING),
        (folder, Reason.UNREADABLE),
        (tmp_path / "pipe.mp4", Reason.UNREADABLE),
        (videos.make_empty(tmp_path / "empty.mp4"), Reason.EMPTY_FILE),
        (videos.make_text(tmp_path / "text.mp4"), Reason.NOT_A_VIDEO),
        (png, Reason.NOT_A_VIDEO),
        (videos.make_ffconcat(tmp_path / "list.mp4", Path(target)), Reason.FORBIDDEN_FORMAT),
        (videos.make_playlist(tmp_path / "playlist.mp4", Path(target)), Reason.FORBIDDEN_FORMAT),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", Reason.FORBIDDEN_FORMAT),
        (b"<?xml version='1.0'?>\n<MPD></MPD>\n", Reason.FORBIDDEN_FORMAT),
        (videos.make_audio_only(tmp_path / "sound.mp4"), Reason.NO_VIDEO_STREAM),
        (videos.make_audio_only(tmp_path / "sound.mkv"), Reason.NO_VIDEO_STREAM),
        (b"RIFF\x24\x10\0\0WAVEfmt " + bytes(4000), Reason.NO_VIDEO_STREAM),
        (videos.make_truncated(bad), Reason.TRUNCATED),
        (bytes(5000), Reason.NOT_A_VIDEO),
        (np.random.default_rng(0).bytes(5000), Reason.NOT_A_VIDEO),
    ]
    for source, reason in cases:
        assert reason_of(source) == reason, source


def test_a_list_of_files_never_shows_the_other_files_pictures(made: Path, tmp_path: Path) -> None:
    target = Path(shutil.copy(made / "front.mp4", tmp_path / "target.mp4"))
    concat = videos.make_ffconcat(tmp_path / "list.mp4", target)
    with av.open(str(concat)) as read_blindly:  # what this guards against is real
        assert sum(1 for _ in read_blindly.decode(video=0)) == 30
    for source in (concat, concat.read_bytes()):
        with pytest.raises(DataError):
            open_container(source)


def test_a_quicktime_reference_to_another_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.bin"
    movie = tmp_path / "reference.mov"
    videos.make_video(movie, seconds=1, container="mov", pattern="noise")
    movie.write_bytes(with_external_data(movie.read_bytes(), secret))
    secret.write_bytes(bytes(movie.stat().st_size))
    asked: list[str] = []

    def spy(url: str, flags: int, options: dict[str, str]) -> None:
        asked.append(url)
        raise PermissionError(url)

    with movie.open("rb") as file:
        try:
            av.open(file, options={"enable_drefs": "1", "use_absolute_path": "1"}, io_open=spy).close()
        except (av.error.FFmpegError, PermissionError):
            pass
    assert any("secret.bin" in url for url in asked), "the file should tempt a demuxer that follows references"
    monkeypatch.setattr(container_module, "_refuse", spy)
    asked.clear()
    assert reason_of(movie) == Reason.NO_FRAMES  # the samples are elsewhere, so there are none
    assert not asked


def with_external_data(movie: bytes, target: Path) -> bytes:
    """A QuickTime movie whose data reference is an alias of ``target``."""
    path = b"V" + str(target).encode().replace(b"/", b":")  # volume:folder:file
    record = bytearray(150)  # the volume's name, with its length in front, at 10
    record[10:12] = b"\x01V"
    items = struct.pack(">hH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">hH", -1, 0)
    body = struct.pack(">I", 0) + bytes(record) + items
    entry = struct.pack(">I4s", 8 + len(body), b"alis") + body
    start = movie.index(b"dref") - 4
    length = struct.unpack(">I", movie[start : start + 4])[0]
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    out = bytearray(movie[:start] + new + movie[start + length :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = movie.rindex(kind, 0, start) - 4
        size = struct.unpack(">I", out[at : at + 4])[0]
        out[at : at + 4] = struct.pack(">I", size + len(new) - length)
    return bytes(out)


@pytest.mark.parametrize(
    "name", ["front.mp4", "end.mp4", "noise.mp4", "h264.mkv", "vp9.webm", "mpeg4.avi", "picture.gif"]
)
def test_a_file_cut_anywhere_is_rejected_or_whole(made: Path, name: str) -> None:
    data = (made / name).read_bytes()
    whole = probe(data)
    rng = np.random.default_rng(1)
    for size in sorted(int(x) for x in rng.integers(1, len(data) - 1, 25)):
        try:
            found = probe(data[:size])
        except DataError as error:
            assert error.reason in (Reason.TRUNCATED, Reason.NOT_A_VIDEO), (size, error)
            assert size < 512 or error.reason is Reason.TRUNCATED, (size, error)
        else:  # only an index or padding behind the last picture is missing
            assert found.num_frames == whole.num_frames, size


def test_a_cut_file_says_how_much_of_it_is_there(made: Path) -> None:
    data = (made / "noise.mp4").read_bytes()
    with pytest.raises(DataError, match=r"(\d+ of 30 pictures|packet of picture \d+)") as caught:
        probe(data[: len(data) * 6 // 10])
    assert caught.value.reason is Reason.TRUNCATED


def test_a_missing_index_at_the_end_is_no_reason_to_reject(made: Path) -> None:
    data = (made / "h264.mkv").read_bytes()
    cues = data.rindex(bytes.fromhex("1c53bb6b"))
    assert probe(data[:cues]).num_frames == 30
    gif = (made / "picture.gif").read_bytes()
    assert gif.endswith(b"\x3b") and probe(gif[:-1]).num_frames == 30


def test_wrong_headers_and_trailing_bytes_are_no_reason_to_reject(made: Path) -> None:
    data = bytearray((made / "front.mp4").read_bytes())
    for header, offset in ((b"mvhd", 20), (b"tkhd", 24)):
        at = data.index(header) + offset
        data[at : at + 4] = struct.pack(">I", 36_000_000)  # ten hours
    found = probe(bytes(data))
    assert found.num_frames == 30 and found.duration_seconds == pytest.approx(3, abs=0.01)
    assert probe((made / "front.mp4").read_bytes() + b"x" * 3000).num_frames == 30
    assert probe((made / "picture.gif").read_bytes() + bytes(100)).num_frames == 30


def test_a_sound_track_longer_than_the_video_changes_nothing(made: Path) -> None:
    assert probe(made / "sound.mp4").duration_seconds == pytest.approx(1.0)


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    videos.make_audio_only(tmp_path / "plain.m4a")
    with av.open(str(tmp_path / "plain.m4a")) as source, av.open(str(path), "w", format="mp4") as out:
        sound = out.add_stream_from_template(source.streams.audio[0])
        art = out.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 32, 32, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(videos.picture(0, (32, 32)), format="rgb24")
        out.mux(art.encode(frame))
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                out.mux(packet)
    assert reason_of(path) == Reason.NO_VIDEO_STREAM


def test_limits_are_checked(made: Path) -> None:
    path = made / "front.mp4"
    assert reason_of(path, max_side=95) == Reason.BAD_DIMENSIONS
    assert reason_of(path, max_pixels=96 * 64 - 1) == Reason.BAD_DIMENSIONS
    assert reason_of(path, max_seconds=2.9) == Reason.TOO_LONG
    assert reason_of(path, max_side=96, max_pixels=96 * 64, max_seconds=3.1) is None


def test_damaged_packets_are_found_by_the_plan_but_leave_the_good_part(made: Path) -> None:
    data = (made / "noise.mp4").read_bytes()
    plan = make_plan(data[: len(data) // 2])
    assert plan.damage is not None and plan.damage.reason is Reason.TRUNCATED
    assert 5 < plan.probe.num_frames < 30


def test_a_recording_that_starts_in_the_middle_is_accepted_from_its_first_keyframe(made: Path) -> None:
    data = (made / "stream.ts").read_bytes()
    found = probe(data[188 * 4 :])
    assert 10 <= found.num_frames < 30
    assert found.keyframes[0]


def test_latin1_metadata_does_not_break_opening(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "title.mkv"
    with av.open(str(made / "h264.mkv")) as source, av.open(str(path), "w") as out:
        out.metadata["title"] = "XXXXXX"
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.dts, packet.stream = packet.pts, stream
                out.mux(packet)
    data = path.read_bytes().replace(b"XXXXXX", b"caf\xe9 \xff")
    assert probe(data).num_frames == 30
