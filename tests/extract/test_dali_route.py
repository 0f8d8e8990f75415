"""DALI is given what it decodes surely, and PyAV the rest, with a reason that says why."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from reelkin.core.errors import ReelkinError
from reelkin.extract.decoding.route import ClipFacts, Hardware, why_not_dali
from reelkin.shards.video.probe import make_plan
from reelkin.tests.helpers import videos

CPU = Hardware()
TURING, A100, AMPERE, ADA, HOPPER, BLACKWELL = (
    Hardware("gpu", capability, "the GPU") for capability in ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
)
GPUS = (TURING, A100, AMPERE, ADA, HOPPER, BLACKWELL)
H264 = ClipFacts("mp4", "h264", "High", "yuv420p", 1920, 1080, 1, "")


def like(**changes: Any) -> ClipFacts:
    return dataclasses.replace(H264, **changes)


@pytest.mark.parametrize(
    "facts",
    [
        H264,
        like(container="mkv", profile="Constrained Baseline", pix_fmt="yuvj420p"),
        like(codec="hevc", profile="Main 10", pix_fmt="yuv420p10le", width=3840, height=2160, colour_matrix=9),
        like(container="webm", codec="vp8", profile="", colour_matrix=5),
        like(container="webm", codec="vp9", profile="Profile 0", width=8192, height=4320),
        like(codec="mpeg4", profile="Simple Profile", width=720, height=576),
    ],
)
def test_usual_videos_go_to_the_gpu(facts: ClipFacts) -> None:
    assert [why_not_dali(facts, hardware) for hardware in GPUS] == [""] * len(GPUS)


def test_av1_goes_only_to_gpus_that_have_a_decoder_for_it() -> None:
    facts = like(codec="av1", profile="Main", pix_fmt="yuv420p10le")
    assert [why_not_dali(facts, hardware) == "" for hardware in GPUS] == [False, False, True, True, False, True]
    assert why_not_dali(facts, HOPPER) == "av1: the decoder of the GPU has h264, hevc, vp8, vp9, mpeg4"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"profile": "High 10", "pix_fmt": "yuv420p10le"},
            "h264 High 10 yuv420p10le: the decoder of the GPU has h264 in",
        ),
        ({"profile": "High 4:2:2", "pix_fmt": "yuv422p"}, "h264 High 4:2:2 yuv422p"),
        ({"profile": "High 4:4:4 Predictive", "pix_fmt": "yuv444p"}, "yuv444p"),
        ({"profile": "Extended"}, "h264 Extended"),
        ({"codec": "vp9", "profile": "Profile 2", "pix_fmt": "yuv420p10le"}, "vp9 Profile 2"),
        ({"codec": "hevc", "profile": "Rext", "pix_fmt": "yuv444p"}, "hevc Rext"),
        ({"codec": "mpeg2video", "profile": "Main"}, "mpeg2video: the decoder of the GPU has"),
        ({"codec": "mjpeg", "profile": "", "pix_fmt": "yuvj420p"}, "mjpeg: the decoder of the GPU has"),
        ({"codec": "wmv2"}, "wmv2"),
        ({"codec": "flv1"}, "flv1"),
        ({"width": 8192, "height": 8192}, "8192x8192: the decoder of the GPU takes h264 of 48x16 to 4096x4096"),
        ({"codec": "hevc", "profile": "Main", "width": 128, "height": 128}, "128x128"),
        ({"codec": "vp9", "profile": "Profile 0", "width": 96, "height": 64}, "96x64"),
        ({"width": 321}, "321x1080: odd sizes"),
        ({"height": 241}, "odd sizes"),
        ({"colour_matrix": 8}, "matrix 8"),
        ({"container": "ts"}, "the container is ts"),
        ({"container": "avi"}, "the container is avi"),
        ({"container": "flv"}, "the container is flv"),
        ({"doubts": "its pictures are interlaced"}, "its pictures are interlaced"),
    ],
)
def test_what_the_gpu_does_not_decode_surely_goes_to_pyav(changes: dict[str, Any], why: str) -> None:
    for hardware in GPUS[:-1]:
        assert why in why_not_dali(like(**changes), hardware)


def test_large_h264_goes_to_gpus_that_take_it() -> None:
    facts = like(width=7680, height=4320)
    assert why_not_dali(facts, ADA) != "" == why_not_dali(facts, BLACKWELL)


def test_without_a_gpu_three_codecs_go_to_dali() -> None:
    for codec in ("vp8", "vp9", "mjpeg"):
        assert why_not_dali(like(codec=codec, width=161, pix_fmt="yuv444p"), CPU) == ""
    for codec in ("h264", "hevc", "av1", "mpeg4"):
        assert why_not_dali(like(codec=codec), CPU) == f"{codec}: without a GPU, DALI decodes vp8, vp9, mjpeg only"
    assert why_not_dali(like(codec="vp9", pix_fmt="gbrp"), CPU) == "its pixels are gbrp"


def test_scaling_that_dali_does_not_have_goes_to_pyav() -> None:
    assert "tca" in why_not_dali(like(codec="vp9"), CPU, "tca")


def facts_of(path: Path) -> ClipFacts:
    return ClipFacts.of(make_plan(path))


def test_facts_come_from_the_file(tmp_path: Path) -> None:
    vp9 = facts_of(videos.make_video(tmp_path / "a.webm", codec="libvpx-vp9"))
    assert vp9 == ClipFacts("webm", "vp9", "Profile 0", "yuv420p", 96, 64, vp9.colour_matrix, "")
    assert why_not_dali(vp9, CPU) == ""
    ten = facts_of(videos.make_video(tmp_path / "b.mp4", pix_fmt="yuv420p10le", size=(320, 240)))
    assert (ten.profile, ten.pix_fmt) == ("High 10", "yuv420p10le") and why_not_dali(ten, ADA)
    usual = facts_of(videos.make_video(tmp_path / "c.mp4", size=(320, 240)))
    assert why_not_dali(usual, ADA) == "" and "without a GPU" in why_not_dali(usual, CPU)
    assert "container is avi" in why_not_dali(facts_of(videos.make_video(tmp_path / "d.avi", codec="mpeg4")), ADA)


def test_pictures_that_are_hidden_in_front_go_to_pyav(tmp_path: Path) -> None:
    whole = videos.make_video(tmp_path / "a.mp4", codec="libvpx-vp9", seconds=3, gop=10)
    line = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-ss", "0.55", "-i", str(whole), "-c", "copy"]
    subprocess.run([*line, str(tmp_path / "cut.mp4")], check=True, timeout=60)
    facts = facts_of(tmp_path / "cut.mp4")
    assert why_not_dali(facts, CPU) == facts.doubts and "are not shown" in facts.doubts


def test_known_damage_goes_to_pyav_which_keeps_the_pictures_before_it(tmp_path: Path) -> None:
    assert "it is damaged" in facts_of(videos.make_truncated(tmp_path / "cut.mp4")).doubts


def test_hardware_goes_through_json() -> None:
    for hardware in (CPU, *GPUS):
        assert Hardware.from_dict(json.loads(json.dumps(hardware.as_dict()))) == hardware


def test_a_small_gpu_has_a_small_budget() -> None:
    gib = 1 << 30
    assert dataclasses.replace(HOPPER, memory_bytes=80 * gib).budget.bytes == 2 * gib
    assert dataclasses.replace(TURING, memory_bytes=4 * gib).budget.bytes == gib // 2
    assert CPU.budget.bytes == gib // 4


def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(ReelkinError, match="there is no GPU 99"):
        Hardware.gpu(99)
