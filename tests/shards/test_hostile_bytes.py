"""Hostile bytes, one file at a time: headers with any byte wrong, a broken beginning, pictures that grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reelkin.core.errors import DataError, Reason
from reelkin.shards.video.container import Limits
from reelkin.shards.video.decode import decode_whole
from reelkin.shards.video.facts import facts_of
from reelkin.shards.video.probe import Probe, probe
from reelkin.tests.helpers import hostile_videos
from reelkin.tests.helpers.hostile_bases import Bases
from reelkin.tests.helpers.oracle import Opinion, ask_ffmpeg


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Whole videos of many formats."""
    return Bases(tmp_path_factory.mktemp("bases"))


def reason_of(call: Callable[..., object], source: Path | bytes, **limits: int) -> Reason | None:
    try:
        call(source, limits=Limits(**limits))  # type: ignore[arg-type]
    except DataError as error:
        return error.reason
    return None


def test_every_byte_of_a_header_may_be_wrong(tmp_path: Path, bases: Bases) -> None:
    """Each third of the first bytes in turn: facts or a reason come out and no other error, and the short way to the
    facts of an MP4 file agrees with the long one, but for damage behind the first picture."""
    behind = 0
    path, lengths = tmp_path / "clip.dat", (900, 300, 300, 60, 300)
    for name, length in zip(("front.mp4", "h264.mkv", "mpeg4.avi", "flash.flv", "media.wmv"), lengths, strict=True):
        data = bytearray(bases.data(name))
        for place in range(0, length, 3):
            for value in (0, 1, 0xFF):
                path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
                short, long = outcome_of(facts_of, path), outcome_of(probe, path)
                if isinstance(short, dict) and long is Reason.DAMAGED:
                    behind += 1  # the long way decodes some pictures more until the first one comes
                    continue
                assert short == long, (name, place, value)
    assert behind < 10


def outcome_of(call: Callable[..., object], path: Path) -> dict[str, object] | Reason:
    try:
        found = call(path, limits=Limits())
    except DataError as error:
        return error.reason
    assert isinstance(found, (Probe, dict))
    return found.facts() if isinstance(found, Probe) else found


def test_a_picture_that_outgrows_the_first_is_refused_before_it_is_decoded(tmp_path: Path, bases: Bases) -> None:
    path = tmp_path / "growing.mkv"
    makers = {name: make for _, name, _, _, make in hostile_videos.ODD}
    makers["growing.mkv"](path, bases)
    assert reason_of(probe, path) is None
    assert reason_of(decode_whole, path) is Reason.BAD_DIMENSIONS
    assert reason_of(decode_whole, path, max_pixels=150_000_000) is None
    assert reason_of(decode_whole, path, max_pixels=150_000_000, max_side=11_999) is Reason.BAD_DIMENSIONS


@pytest.mark.parametrize(
    ("name", "start"), [("phone.3gp", 1500), ("mpeg2.mpg", 500), ("front.mp4", 2200), ("flash.flv", 1300)]
)
def test_a_damaged_first_keyframe_is_damage_though_the_rest_can_be_decoded(bases: Bases, name: str, start: int) -> None:
    data = bytearray(bases.data(name))
    data[start : start + 120] = bytes(120)
    assert not ask_bytes(bytes(data), bases.folder / f"damaged-{name}").clean
    assert reason_of(probe, bytes(data)) is Reason.DAMAGED
    assert reason_of(decode_whole, bytes(data)) is Reason.DAMAGED


def ask_bytes(data: bytes, path: Path) -> Opinion:
    path.write_bytes(data)
    return ask_ffmpeg(path)
