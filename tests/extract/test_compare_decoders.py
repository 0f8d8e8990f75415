"""The comparison of the decoders says which takes a clip, finds wrong pictures and other features, and nothing else."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError
from reelkin.extract import compare_decoders
from reelkin.extract.comparison import comparing
from reelkin.extract.comparison.comparing import Comparison
from reelkin.extract.decoding.dali_request import ClipRequest
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.decoding.route import Hardware
from reelkin.extract.decoding.tasks import Source
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.dali_there import need_dali


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """One clip of each kind, and two that no decoder takes."""
    folder = tmp_path / "clips"
    folder.mkdir()
    videos.make_video(folder / "vp9.webm", codec="libvpx-vp9", size=(160, 120), gop=6)
    videos.make_video(folder / "vp8 é.webm", codec="libvpx", size=(120, 160))
    videos.set_display_matrix(
        videos.make_video(folder / "turned.mp4", codec="mjpeg", pix_fmt="yuvj420p", size=(160, 120)), 0, 1, -1, 0
    )
    videos.make_video(folder / "still.webm", codec="libvpx-vp9", pattern="plain", size=(160, 120))
    videos.make_video(folder / "h264.mp4")
    videos.make_text(folder / "text.mp4")
    videos.make_empty(folder / "empty.webm")
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command: exit code, standard output, standard error."""

    def command(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = compare_decoders.main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return command


def table_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_decoders_that_agree_end_with_0_and_a_table(run: Run, clips: Path, tiny_file: Path, tmp_path: Path) -> None:
    need_dali()
    table = tmp_path / "table.csv"
    sizes = ("--size", 96, "--crop", 96)
    flags = ("--encoder", "torchscript", "--weights", tiny_file, *sizes, "--output", table)
    code, out, err = run("--videos", clips, *flags)
    assert code == 0, out + err
    assert "7 clips on the CPU: DALI takes 4, PyAV 1, neither 2; 0 differ" in out
    rows = table_of(table)
    for name in ("vp9.webm", "vp8 é.webm", "turned.mp4", "still.webm"):
        row = rows[name]
        assert (row["decoder"], row["pictures"], row["wrong"], row["differs"]) == ("dali", "16", "0", "")
        assert 0.999 < float(row["cosine"]) <= 1.000001 and float(row["mean_difference"]) < 2
    assert rows["h264.mp4"]["why"] == "h264: without a GPU, DALI decodes vp8, vp9, mjpeg only"
    assert (rows["text.mp4"]["decoder"], rows["empty.webm"]["decoder"]) == ("", "")
    assert rows["text.mp4"]["why"].startswith("not-a-video") and rows["empty.webm"]["why"].startswith("empty-file")


def test_a_dry_run_says_who_takes_what_and_decodes_nothing(run: Run, clips: Path) -> None:
    code, out, _ = run("--videos", clips, "--dry-run", "--limit", "6")
    assert code == 0 and "nothing was decoded" in out and "pixels" not in out
    assert "dali  turned.mp4: takes it" in out and "pyav  h264.mp4: h264: without" in out
    assert "6 clips" in out


def test_clips_of_shards_are_compared_where_they_lie(run: Run, clips: Path, tmp_path: Path) -> None:
    need_dali()
    build(BuildConfig((clips,), tmp_path / "shards", workers=1))
    code, out, err = run("--shards", tmp_path / "shards", "--frames", 4)
    assert code == 0, out + err
    assert "5 clips on the CPU: DALI takes 4, PyAV 1, neither 0; 0 differ" in out


def test_wrong_flags_are_said_by_name(run: Run, tmp_path: Path) -> None:
    for words, name in (([], "videos, shards"), (["--videos", "a", "--shards", "b"], "videos, shards")):
        code, _, err = run(*words)
        assert code == 2 and name in err
    code, _, err = run("--videos", tmp_path / "nowhere")
    assert code == 2 and "nowhere" in err


class OneOff(Comparison):
    """DALI is asked for the picture after the one that is wanted."""

    def _by_dali(self, request: ClipRequest) -> np.ndarray | str:
        return super()._by_dali(dataclasses.replace(request, indices=np.minimum(request.indices + 1, 19)))


class Darker(Comparison):
    """DALI's pictures lose a part of their red."""

    def _by_dali(self, request: ClipRequest) -> np.ndarray | str:
        pictures = super()._by_dali(request)
        assert isinstance(pictures, np.ndarray)
        pictures[..., 0] = pictures[..., 0] // 2
        return pictures


def source(path: Path) -> Source:
    return Source(path.name, path)


def test_pictures_that_are_one_off_are_found_where_it_can_be_seen(clips: Path) -> None:
    need_dali()
    with OneOff(Hardware(), Geometry(96), frames=10) as comparison:
        row = comparison.compare(source(clips / "vp9.webm"))
        assert row.pictures == 10 and row.wrong == 9  # the last one is right
        assert row.differs == "9 of 10 pictures are others"
        assert comparison.compare(source(clips / "still.webm")).differs == ""  # all pictures are the same


def test_other_features_are_found(clips: Path, tiny_file: Path) -> None:
    need_dali()
    encoder = build_encoder(EncoderSpec("torchscript", str(tiny_file), 96, 96))
    with Darker(Hardware(), encoder.preprocessing.geometry, encoder) as comparison:
        row = comparison.compare(source(clips / "vp9.webm"))
    assert row.wrong == 0 and row.cosine < 0.99 < row.noise_cosine
    assert "below 0.999 and that of noise" in row.differs


def test_a_child_that_does_not_get_ready_is_an_error_that_says_so(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reelkin.no_such_module", "reelkin.tests.extract.workers.babbling_child"):
        monkeypatch.setattr(comparing, "DALI_CHILD", module)
        with Comparison(Hardware(), Geometry(48, 40)) as comparison, pytest.raises(ReelkinError, match="not start"):
            comparison.compare(source(clips / "vp9.webm"))


def test_a_clip_that_dali_fails_at_is_pyavs(clips: Path) -> None:
    need_dali()
    broken = clips / "broken.webm"
    videos.make_video(clips / "noise.webm", codec="libvpx-vp9", pattern="noise", seconds=3)
    videos.make_damaged(broken, clips / "noise.webm", start=0.1, count=2000)

    class OfBroken(Comparison):
        """DALI is given a damaged copy."""

        def _by_dali(self, request: ClipRequest) -> np.ndarray | str:
            return super()._by_dali(dataclasses.replace(request, path=broken))

    with OfBroken(Hardware(), Geometry(64)) as comparison:
        row = comparison.compare(source(clips / "vp9.webm"))
        assert row.decoder == "pyav" and row.why.startswith("DALI failed: ") and not row.differs
    with Comparison(Hardware(), Geometry(64)) as comparison:
        assert comparison.compare(source(clips / "noise.webm")).decoder == "dali"
        assert comparison.compare(source(clips / "nowhere.webm")).why.startswith("unreadable")
