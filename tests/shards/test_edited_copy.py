"""Edited copies in time: what the table says about a copy is what its pictures show."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reelkin.core.errors import DataError, Reason
from reelkin.shards.editing.edited_copy import OtherFailed, edited_copy, write_copy
from reelkin.shards.editing.footage import ArrayFootage, FileFootage
from reelkin.shards.editing.plan import Edit, EditPlan, plan_copy
from reelkin.shards.editing.strengths import STRENGTHS
from reelkin.shards.editing.time_edits import Segment, lay_out
from reelkin.shards.video.encode import VideoWriter

FPS, SECONDS = 24, 6
BITS = 10  # bit 9 tells the other video from the source, bits 0 to 8 count pictures


def barcode(number: int, other: bool = False) -> np.ndarray:
    """A picture that says its number: ten black or white bars."""
    value = number | (other << 9)
    bars = np.array([255 * (value >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.repeat(bars.repeat(16)[None, :, None], 64, axis=0).repeat(3, axis=2)


def read_barcode(picture: np.ndarray) -> tuple[bool, int]:
    bars = picture.mean(axis=(0, 2)).reshape(BITS, -1)[:, 4:-4].mean(axis=1) > 128
    value = sum(int(bar) << bit for bit, bar in enumerate(bars))
    return bool(value >> 9), value & 511


def plan_of(*edits: Edit, other: str = "", quality: int = 20) -> EditPlan:
    encode = Edit("re_encode", (("codec", "libx264"), ("quality", quality)))
    return EditPlan("source", "easy", 0, 0, (*edits, encode), other)


def edit(name: str, **parameters: Any) -> Edit:
    return Edit(name, tuple(parameters.items()))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("coded")
    paths = (folder / "source.mp4", folder / "other.mp4")
    for path, other, count in zip(paths, (False, True), (FPS * SECONDS, FPS * 3), strict=True):
        with VideoWriter(path, 16 * BITS, 64, FPS, crf=10) as writer:
            for number in range(count):
                writer.write(barcode(number, other))
    return paths


def shown(path: Path) -> list[tuple[float, bool, int]]:
    """Time, whether it is the other video's, and number of every picture, read with PyAV alone."""
    with av.open(str(path)) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [(time, *read_barcode(picture)) for time, picture in frames]


def check_segments(path: Path, segments: list[Segment], other_segments: list[Segment]) -> None:
    pictures = shown(path)
    covered = 0
    for time, is_other, number in pictures:
        named = other_segments if is_other else segments
        inside = [s for s in named if s.copy_start - 1e-4 <= time < s.copy_end - 1e-4]
        assert len(inside) == 1, (time, is_other)
        (segment,) = inside
        speed = (segment.source_end - segment.source_start) / (segment.copy_end - segment.copy_start)
        expected = segment.source_start + (time - segment.copy_start) * speed
        assert number / FPS - 1e-3 <= expected < (number + 1) / FPS + 1e-3, (time, number)
        covered += 1
    assert covered == len(pictures)
    ends = sorted(s.copy_end for s in segments + other_segments)
    assert ends[-1] == pytest.approx(pictures[-1][0] + pictures[1][0] - pictures[0][0], abs=2e-3)


TIMES = {
    "nothing": ((), ""),
    "speed up": ((edit("speed", factor=1.35),), ""),
    "slow down": ((edit("speed", factor=0.6),), ""),
    "trim": ((edit("trim", kept=0.4, pieces=1, lead=0.7, split=0.5),), ""),
    "two pieces": ((edit("trim", kept=0.5, pieces=2, lead=0.5, split=0.2),), ""),
    "frame rate": ((edit("frame_rate", share=0.37),), ""),
    "join before": ((edit("join", length=0.3, side="before", start=0.5),), "other"),
    "join after": ((edit("join", length=0.3, side="after", start=1.0),), "other"),
    "join around, longer than the other": ((edit("join", length=1.2, side="around", start=0.0),), "other"),
    "all": (
        (
            edit("trim", kept=0.6, pieces=2, lead=1.0, split=0.9),
            edit("speed", factor=1.7),
            edit("frame_rate", share=0.8),
            edit("join", length=0.5, side="around", start=0.3),
        ),
        "other",
    ),
}


@pytest.mark.parametrize("name", sorted(TIMES))
def test_every_picture_of_a_copy_is_the_one_that_its_segment_names(
    files: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    edits, other = TIMES[name]
    source, second = FileFootage(files[0]), FileFootage(files[1])
    for max_fps in (15.0, 24.0) if name in ("all", "nothing") else (15.0,):
        path = tmp_path / f"copy-{max_fps}.mp4"
        copy = write_copy(plan_of(*edits, other=other), source, path, second if other else None, max_fps=max_fps)
        check_segments(path, copy.segments, copy.other_segments)
        assert len(copy.segments) == (2 if any(e.name == "trim" and e["pieces"] == 2 for e in edits) else 1)
        assert bool(copy.other_segments) == bool(other)
        assert all(0 <= s.source_start < s.source_end <= SECONDS + 1e-9 for s in copy.segments)
        assert all(0 <= s.source_start < s.source_end <= 3 + 1e-9 for s in copy.other_segments)


def test_the_length_of_the_source_can_be_capped(files: tuple[Path, Path], tmp_path: Path) -> None:
    copy = write_copy(plan_of(), FileFootage(files[0]), tmp_path / "a.mp4", max_seconds=2.0, max_fps=12.0)
    assert copy.segments == [Segment(0.0, 2.0, 0.0, 2.0)]
    assert [number for _, _, number in shown(tmp_path / "a.mp4")] == list(range(0, 48, 2))


def test_the_rate_is_the_sources_own_when_that_is_lower() -> None:
    frames = np.stack([barcode(number) for number in range(10)])
    copy = edited_copy(plan_of(), ArrayFootage(frames, np.arange(10) / 5), max_fps=15.0)
    assert copy.fps == 5 and len(list(copy.frames)) == 10


def test_pictures_of_uneven_duration_are_chosen_by_time() -> None:
    times = np.array([0.0, 0.1, 0.2, 1.5, 3.0])
    footage = ArrayFootage(np.stack([barcode(number) for number in range(5)]), times, 4.0)
    copy = edited_copy(plan_of(edit("speed", factor=2.0)), footage, max_fps=2.0)
    numbers = [read_barcode(frame)[1] for frame in copy.frames]
    instants = np.arange(len(numbers)) * 2.0 / float(copy.fps)
    assert numbers == [int(np.searchsorted(times, t + 1e-9, side="right")) - 1 for t in instants]


def test_the_background_of_a_picture_in_picture_begins_again_when_it_ends(files: tuple[Path, Path]) -> None:
    pip = edit("picture_in_picture", side=0.3, x=0.5, y=0.0, start=0.0)
    copy = edited_copy(plan_of(pip, other="other"), FileFootage(files[0]), FileFootage(files[1]), max_fps=12.0)
    below = [read_barcode(frame[40:]) for frame in copy.frames]
    assert all(other for other, _ in below)
    assert [number for _, number in below] == [2 * (k % 36) for k in range(72)]
    assert copy.segments == [Segment(0.0, 6.0, 0.0, 6.0)]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_same_plan_gives_the_same_bytes_and_another_seed_others(
    files: tuple[Path, Path], tmp_path: Path, strength: str
) -> None:
    source, other = FileFootage(files[0]), FileFootage(files[1])
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        plan = plan_copy("source", strength, 0, seed, ["other"])
        write_copy(plan, source, tmp_path / f"{name}.mp4", other, max_seconds=2.0)
        contents.append((tmp_path / f"{name}.mp4").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_every_plan_gives_pictures_of_the_announced_size_and_number(files: tuple[Path, Path]) -> None:
    source, other = FileFootage(files[0], short_side=32), FileFootage(files[1], short_side=32)
    assert (source.width, source.height) == (80, 32)
    for strength, number in itertools.product(STRENGTHS, range(12)):
        plan = plan_copy("source", strength, number, 0, ["other"])
        copy = edited_copy(plan, source, other, max_seconds=1.5)
        frames = list(copy.frames)
        assert {frame.shape for frame in frames} == {(copy.height, copy.width, 3)}
        assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}
        end = max(s.copy_end for s in copy.segments + copy.other_segments)
        assert len(frames) == pytest.approx(end * float(copy.fps))


class Endless:
    """Footage that makes pictures as they are asked for and knows how many are alive."""

    width, height, fps, duration_seconds = 48, 32, 24.0, 3600.0

    def __init__(self, broken_after: int = 10**9) -> None:
        self.made, self.most_alive, self._alive = 0, 0, weakref.WeakSet[Any]()
        self._broken_after = broken_after

    def sampled(self, rate: float) -> Iterator[np.ndarray]:
        class Picture(np.ndarray):
            __hash__ = object.__hash__  # type: ignore[assignment]

        for number in itertools.count():
            if number == self._broken_after:
                raise DataError(Reason.DAMAGED, "bad data")
            picture = np.full((32, 48, 3), number % 256, np.uint8).view(Picture)
            self._alive.add(picture)
            self.made, self.most_alive = self.made + 1, max(self.most_alive, len(self._alive))
            yield picture


def test_pictures_are_made_as_they_are_asked_for_and_not_kept() -> None:
    source = Endless()
    plan = plan_of(edit("speed", factor=1.25), edit("mirror"), edit("crop", kept=0.8, x=0.5, y=0.5))
    copy = edited_copy(plan, source, max_seconds=3600.0)
    for _ in itertools.islice(copy.frames, 500):
        pass
    assert 500 <= source.made <= 502 and source.most_alive <= 4


def test_damage_says_which_video_it_is_in(tmp_path: Path) -> None:
    sound, broken = Endless(), Endless(broken_after=20)
    join = plan_of(edit("join", length=1.0, side="after", start=0.0), other="other")
    with pytest.raises(OtherFailed):
        write_copy(join, sound, tmp_path / "a.mp4", broken, max_seconds=2.0)
    with pytest.raises(DataError) as caught:
        write_copy(join, broken, tmp_path / "a.mp4", sound, max_seconds=2.0)
    assert not isinstance(caught.value, OtherFailed) and not list(tmp_path.iterdir())


def test_a_timeline_always_shows_some_of_the_source() -> None:
    rng = np.random.default_rng(0)
    for number in range(400):
        plan = plan_copy("source", STRENGTHS[number % 3], number, 1, ["other"])
        seconds, fps, other = rng.uniform(0.01, 40), rng.uniform(0.2, 120), rng.uniform(0.01, 40)
        timeline = lay_out(plan, seconds, fps, other if plan.other_source_id else 0.0, max_fps=15.0)
        segments = timeline.segments()
        assert segments and timeline.fps <= 15 and timeline.fps.denominator <= 1001
        assert isinstance(timeline.fps, Fraction)
        for earlier, later in itertools.pairwise(segments):
            assert earlier.source_end < later.source_start and earlier.copy_end <= later.copy_start
        step = 1 / timeline.source_rate
        assert all(s.source_end <= max(seconds, step) + 1e-6 for s in segments)
        spans = sorted((s.copy_start, s.copy_end) for s in segments + timeline.segments(False))
        assert spans[0][0] == 0 and spans[-1][1] == pytest.approx(timeline.duration_seconds)
        assert all(a[1] == pytest.approx(b[0]) for a, b in itertools.pairwise(spans))
