"""Videos shared by the tests of this package, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelkin.tests.helpers import videos


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small good videos; treat as read-only."""
    folder = tmp_path_factory.mktemp("made")
    videos.make_faststart(folder / "front.mp4", seconds=3)
    videos.make_video(folder / "end.mp4", seconds=3, pattern="noise")
    videos.make_video(folder / "noise.mp4", seconds=3, pattern="noise", container_options={"movflags": "faststart"})
    videos.make_video(folder / "h264.mkv", seconds=3, pattern="noise")
    videos.make_video(folder / "vp9.webm", seconds=3, codec="libvpx-vp9", options={"deadline": "realtime"})
    videos.make_video(folder / "vp8.webm", seconds=3, codec="libvpx", options={"deadline": "realtime"}, pattern="noise")
    videos.make_video(folder / "mpeg4.avi", seconds=3, codec="mpeg4", pattern="noise")
    videos.make_video(folder / "bframes.avi", seconds=3, codec="libx264", options={"bf": "3"})
    videos.make_video(folder / "picture.gif", seconds=3, codec="gif", pix_fmt="rgb8")
    videos.make_video(folder / "stream.ts", seconds=3)
    videos.make_video(folder / "stream.mpg", seconds=3, codec="mpeg2video", fps=25)
    videos.make_video(folder / "raw.h264", seconds=3, fps=25)
    videos.make_video(folder / "old.wmv", seconds=3, codec="wmv2")
    videos.make_video(folder / "flash.flv", seconds=3)
    videos.make_video(folder / "hevc10.mp4", seconds=2, codec="libx265", pix_fmt="yuv420p10le")
    videos.make_video(folder / "yuv444.mp4", seconds=2, pix_fmt="yuv444p", size=(97, 65))
    videos.make_video(folder / "sound.mp4", seconds=1, sound_seconds=3)
    videos.make_video(folder / "one.mp4", seconds=0.1)
    return folder
