"""The same checks on each device that DALI decodes on; those for a GPU run where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.extract.comparison.comparing import Comparison
from reelkin.extract.decoding.dali_graph import DaliDecoder, DaliSample
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.decoding.route import ClipFacts, Hardware, why_not_dali
from reelkin.extract.decoding.tasks import Source
from reelkin.shards.video.probe import make_plan
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.dali_there import need_dali

IRREGULAR = [0, 0.1, 0.15, 0.7, 1.9, 2.0, 4.0]
CLIPS: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "vp9.webm": {"codec": "libvpx-vp9"},
        "vp8.mkv": {"codec": "libvpx", "gop": 30},
        "mjpeg.mp4": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    },
    "gpu": {
        "vp9.webm": {"codec": "libvpx-vp9"},
        "vp8.mkv": {"codec": "libvpx", "gop": 30},
        "h264.mp4": {"options": {"bf": "3", "b-pyramid": "normal"}},
        "h264_open.mkv": {"options": {"bf": "2", "x264-params": "open-gop=1"}},
        "h264_baseline.mp4": {"options": {"profile": "baseline"}},
        "h264_irregular.mp4": {"times": IRREGULAR},
        "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=3:open-gop=1"}},
        "hevc_10_bit.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
        "mpeg4.mp4": {"codec": "mpeg4"},
    },
}


@pytest.fixture(params=["cpu", "gpu"])
def hardware(request: pytest.FixtureRequest) -> Hardware:
    need_dali()
    if request.param == "cpu":
        return Hardware()
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return Hardware.gpu()


@pytest.fixture
def clips(hardware: Hardware, tmp_path: Path) -> dict[str, Path]:
    usual: dict[str, Any] = {"size": (320, 240), "seconds": 4, "gop": 12}
    return {
        name: videos.make_video(tmp_path / name, **{**usual, **settings})
        for name, settings in CLIPS[hardware.device].items()
    }


def sample_of(path: Path, indices: Any) -> DaliSample:
    plan = make_plan(path)
    probe = plan.probe
    data = np.fromfile(path, np.uint8)
    size = (probe.width, probe.height)
    return DaliSample(data, np.asarray(indices), *size, 160, 120, plan.colour_matrix)


def test_all_pictures_and_few_are_those_asked_for(hardware: Hardware, clips: dict[str, Path]) -> None:
    decoder = DaliDecoder(hardware.device, threads=2)
    for name, path in clips.items():
        assert why_not_dali(ClipFacts.of(make_plan(path)), hardware) == "", name
    count = {name: make_plan(path).probe.num_frames for name, path in clips.items()}
    keyframes = {name: np.flatnonzero(make_plan(path).probe.keyframes) for name, path in clips.items()}
    for asked in (
        {name: np.arange(number) for name, number in count.items()},
        {name: np.array([number - 1, 0, number // 2, number - 1]) for name, number in count.items()},
        keyframes,
    ):
        pictures = decoder.decode([sample_of(path, asked[name]) for name, path in clips.items()])
        for (name, indices), frames in zip(asked.items(), pictures, strict=True):
            assert [videos.read_counter(frame) for frame in frames] == indices.tolist(), name


def test_the_decoders_agree(hardware: Hardware, clips: dict[str, Path]) -> None:
    with Comparison(hardware, Geometry(120)) as comparison:
        for name, path in clips.items():
            row = comparison.compare(Source(name, path))
            assert (row.decoder, row.wrong, row.differs) == ("dali", 0, "")
            assert row.mean_difference < 2, name
