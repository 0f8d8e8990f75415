"""Cutting: the clips of a video, decoded one after the other, show what the whole video shows, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reelkin.core.errors import DataError, Reason
from reelkin.shards.video.clips import ClipFile
from reelkin.shards.video.container import Limits
from reelkin.shards.video.cutting import cut_at_keyframes
from reelkin.shards.video.orientation import Orientation
from reelkin.shards.video.probe import probe
from reelkin.tests.helpers import videos

_OPEN = "keyint=12:min-keyint=12:bframes=4:b-adapt=0:scenecut=0:"
OPEN_H264 = {"bf": "4", "x264-params": _OPEN + "open-gop=1:b-pyramid=normal"}
OPEN_HEVC = {"x265-params": _OPEN + "open-gop=1:log-level=none"}


def cut(source: Path, clip_seconds: float = 2.0, **limits: Any) -> list[ClipFile]:
    folder = source.with_name(f"{source.name}.clips")
    folder.mkdir(exist_ok=True)
    return cut_at_keyframes(source, clip_seconds, folder, Limits(**limits))


def decoded(path: str | Path) -> list[tuple[float, np.ndarray]]:
    """Every picture that PyAV shows, with its time stamp, by the plain way: the reference."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def assert_same_pictures(source: Path, clips: list[ClipFile], tolerance: float = 1e-9) -> None:
    whole = decoded(source)
    parts = []
    for clip in clips:
        pictures = decoded(clip.path)
        assert len(pictures) == clip.num_frames == probe(Path(clip.path)).num_frames
        assert pictures[0][0] == 0 and pictures[-1][0] < clip.duration_seconds + tolerance
        assert Path(clip.path).suffix == f".{clip.container}" and Path(clip.path).stat().st_size == clip.bytes
        parts += [(clip.start_seconds + time, picture) for time, picture in pictures]
    assert len(parts) == len(whole)
    for (time, picture), (whole_time, whole_picture) in zip(parts, whole, strict=True):
        assert time == pytest.approx(whole_time - whole[0][0], abs=tolerance)
        assert np.array_equal(picture, whole_picture)
    ends = [clip.start_seconds + clip.duration_seconds for clip in clips]
    assert ends[:-1] == pytest.approx([clip.start_seconds for clip in clips[1:]], abs=1e-9)
    assert ends[-1] == pytest.approx(probe(source).duration_seconds, abs=1e-9)


KINDS: dict[str, tuple[dict[str, Any], str]] = {
    # name: (how it is made, container of the clips)
    "bframes.mp4": ({"options": {"bf": "3"}}, "mp4"),
    "ten-bit.mp4": ({"options": {"bf": "3"}, "pix_fmt": "yuv420p10le"}, "mp4"),
    "open.mp4": ({"options": OPEN_H264}, "mp4"),
    "open.mkv": ({"options": OPEN_H264}, "mp4"),
    "open.ts": ({"options": OPEN_H264}, "mp4"),
    "open-hevc.mp4": ({"codec": "libx265", "options": OPEN_HEVC}, "mp4"),
    "open-hevc.mkv": ({"codec": "libx265", "options": OPEN_HEVC, "pix_fmt": "yuv420p10le"}, "mp4"),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}, "webm"),
    "vp8.webm": ({"codec": "libvpx", "options": {"deadline": "realtime"}}, "webm"),
    "vp8.mkv": ({"codec": "libvpx", "options": {"deadline": "realtime"}}, "mkv"),
    "mpeg4.avi": ({"codec": "mpeg4"}, "mp4"),
    "mpeg4-bframes.mp4": ({"codec": "mpeg4", "options": {"bf": "2"}}, "mp4"),
    "mpeg2.ts": ({"codec": "mpeg2video", "fps": 25, "options": {"bf": "2", "sc_threshold": "1000000000"}}, "mp4"),
    "mpeg2.mpg": ({"codec": "mpeg2video", "fps": 25, "options": {"bf": "2"}}, "mp4"),
    "mjpeg.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, "mp4"),
    "prores.mov": ({"codec": "prores_ks", "pix_fmt": "yuv422p10le"}, "mov"),
    "ffv1.mkv": ({"codec": "ffv1"}, "mkv"),
    "old.wmv": ({"codec": "wmv2"}, "wmv"),
    "flash.flv": ({"codec": "flv1"}, "flv"),
    "old.avi": ({"codec": "msmpeg4"}, "avi"),
    "ntsc.mp4": ({"fps": 29.97, "options": {"bf": "3"}}, "mp4"),
    "sound.mp4": ({"sound_seconds": 7.0}, "mp4"),
}


@pytest.mark.parametrize("name", KINDS)
def test_clips_one_after_the_other_show_the_whole_video(name: str, tmp_path: Path) -> None:
    settings, container = KINDS[name]
    source = videos.make_video(tmp_path / name, seconds=7, pattern="noise", **settings)
    clips = cut(source)
    assert len(clips) >= 3 and {clip.container for clip in clips} == {container}
    assert all(1.0 <= clip.duration_seconds <= 3.0 for clip in clips)
    assert_same_pictures(source, clips)


def test_open_groups_really_have_pictures_before_their_keyframe(tmp_path: Path) -> None:
    # or the cases above would prove nothing
    for name, settings in (("open.mp4", {"options": OPEN_H264}), ("x.mp4", {"codec": "libx265", "options": OPEN_HEVC})):
        source = videos.make_video(tmp_path / name, seconds=9, pattern="noise", **settings)  # type: ignore[arg-type]
        for start in [clip.start_seconds for clip in cut(source)[1:]]:
            with av.open(str(source)) as container:
                packets = [packet for packet in container.demux(video=0) if packet.size]
            key = next(
                i for i, p in enumerate(packets) if p.is_keyframe and abs(float(p.pts * p.time_base) - start) < 1e-6
            )
            assert packets[key + 1].pts < packets[key].pts  # type: ignore[operator]


def test_closed_groups_are_preferred_where_there_are_both(tmp_path: Path) -> None:
    params = "keyint=30:min-keyint=1:bframes=4:b-adapt=0:scenecut=0:open-gop=1"
    source = tmp_path / "both.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"bf": "4", "x264-params": params, "forced-idr": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(120):
            frame = av.VideoFrame.from_ndarray(videos.picture(number, pattern="noise"), format="rgb24")
            frame.pts = number
            if number in (24, 66):
                frame.pict_type = av.video.frame.PictureType.I
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    clips = cut(source, 3.0)
    assert [round(clip.start_seconds, 6) for clip in clips][:2] == [0.0, 2.4]
    assert_same_pictures(source, clips)


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_variable_frame_rates_keep_every_time(name: str, tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, 60))
    source = videos.make_video(tmp_path / name, times=list(times), pattern="noise", options={"bf": "3"})
    clips = cut(source)
    assert len(clips) > 2
    assert_same_pictures(source, clips)


def test_rotation_and_colour_survive(tmp_path: Path) -> None:
    options = {"x264-params": "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=pc", "color_range": "pc"}
    source = videos.make_video(tmp_path / "turned.mp4", seconds=9, pattern="noise", options=options)
    videos.set_display_matrix(source, 0, 1, -1, 0)
    clips = cut(source)
    assert len(clips) > 2
    before = videos.decode_all(source)[0]
    assert (before.color_primaries, before.color_trc) == (9, 16) and Orientation.of(before).degrees == 90
    for clip in clips:
        after = videos.decode_all(Path(clip.path))[0]
        assert Orientation.of(after) == Orientation.of(before)
        for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
            assert getattr(after, name) == getattr(before, name)


def patch_edit_list(path: Path, skip_seconds: float, drop_seconds: float) -> None:
    """Move the start of an MP4's only edit by ``skip_seconds`` and take ``drop_seconds`` off its end."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12
    movie = int.from_bytes(data[data.index(b"mvhd") + 16 : data.index(b"mvhd") + 20], "big")
    media = int.from_bytes(data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20], "big")
    duration = int.from_bytes(data[entry : entry + 4], "big") - round((skip_seconds + drop_seconds) * movie)
    begin = int.from_bytes(data[entry + 4 : entry + 8], "big") + round(skip_seconds * media)
    data[entry : entry + 8] = duration.to_bytes(4, "big") + begin.to_bytes(4, "big")
    path.write_bytes(data)


def test_an_edit_list_that_begins_and_ends_inside_a_group_is_kept(tmp_path: Path) -> None:
    source = videos.make_video(tmp_path / "edited.mp4", seconds=9, pattern="noise", options={"bf": "3"})
    patch_edit_list(source, 0.5, 0.7)
    assert len(decoded(source)) == 78  # of 90: 5 and 7 are outside
    clips = cut(source)
    assert len(clips) > 2
    assert_same_pictures(source, clips)


def test_a_clip_can_be_cut_again(tmp_path: Path) -> None:
    source = videos.make_video(tmp_path / "a.mp4", seconds=12, pattern="noise", options=OPEN_H264)
    first = Path(cut(source, 5.0)[0].path)
    clips = cut(first, 1.2)
    assert len(clips) >= 3
    assert_same_pictures(first, clips)


def test_a_recording_that_starts_in_the_middle_begins_with_its_first_usable_picture(tmp_path: Path) -> None:
    whole = videos.make_video(tmp_path / "whole.ts", seconds=12, pattern="noise", options=OPEN_H264)
    source = tmp_path / "late.ts"
    data = whole.read_bytes()
    tables = data[: 3 * 188]  # what says which stream is which
    source.write_bytes(tables + data[188 * (len(data) // 188 // 7) :])
    found = probe(source)
    clips = cut(source)
    assert len(clips) >= 3 and sum(clip.num_frames for clip in clips) == found.num_frames
    assert_same_pictures(source, clips)


def test_the_same_video_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, settings in (("a.mp4", {}), ("b.webm", {"codec": "libvpx-vp9"}), ("c.mkv", {"codec": "ffv1"})):
        source = videos.make_video(tmp_path / name, seconds=6, **settings)  # type: ignore[arg-type]
        first = [Path(clip.path).read_bytes() for clip in cut(source)]
        again = [Path(clip.path).read_bytes() for clip in cut(source)]
        assert len(first) > 1 and first == again


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("picture.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("raw.h264", {"fps": 25}),
        ("bframes.avi", {"options": {"bf": "3"}}),
        ("one-keyframe.mp4", {"gop": 1000, "options": {"sc_threshold": "0"}}),
        ("refresh.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=12"}}),
    ],
)
def test_what_cannot_be_cut_without_loss_stays_whole(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    source = videos.make_video(tmp_path / name, seconds=6, pattern="plain", **settings)
    assert cut(source, 1.0) == []
    assert list((tmp_path / f"{name}.clips").iterdir()) == []


def test_a_video_of_up_to_one_and_a_half_clips_stays_whole(tmp_path: Path) -> None:
    source = videos.make_video(tmp_path / "a.mp4", seconds=3, pattern="noise")
    assert cut(source, 2.0) == []
    assert len(cut(source, 1.9)) == 2


def test_sparse_keyframes_give_longer_clips(tmp_path: Path) -> None:
    source = videos.make_video(tmp_path / "a.mp4", seconds=9, gop=40, options={"sc_threshold": "0"})
    assert [clip.num_frames for clip in cut(source, 1.0)] == [40, 40, 10]


def test_bad_videos_are_data_errors(tmp_path: Path) -> None:
    cut_off = videos.make_truncated(tmp_path / "cut.mp4")
    with pytest.raises(DataError) as caught:
        cut(cut_off, 1.0)
    assert caught.value.reason is Reason.TRUNCATED
    source = videos.make_video(tmp_path / "long.mp4", seconds=4)
    with pytest.raises(DataError) as caught:
        cut(source, 1.0, max_seconds=3)
    assert caught.value.reason is Reason.TOO_LONG
    with pytest.raises(ValueError, match="clip_seconds is 0"):
        cut(source, 0)


_FULL_DISK = """
import resource, sys
from pathlib import Path
from reelkin.shards.video.container import Limits
from reelkin.shards.video.cutting import cut_at_keyframes
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    cut_at_keyframes(Path(sys.argv[1]), 3.0, Path(sys.argv[2]), Limits())
except OSError as error:
    print(error.errno)
"""


def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    # a bound on the size of files stands for a full disk: errno EFBIG instead of ENOSPC
    source = videos.make_video(tmp_path / "a.mp4", seconds=9, pattern="noise", size=(320, 240))
    command = [sys.executable, "-c", _FULL_DISK, str(source), str(tmp_path), "200000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "27\n"
