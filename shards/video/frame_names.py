"""Frame folders: which images are pictures of the video, and when each is shown. Read from their names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from ...core.errors import DataError, Reason

IMAGE_EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"])
"""Files that count as pictures; lower case. The list of torchvision's ImageFolder."""

FrameNames = Literal["auto", "number", "seconds", "milliseconds"]
"""How the pictures of a folder are named; see `frame_times`."""

_FLOW = re.compile(r"flow[-_]?[xyuv](?![a-z])", re.IGNORECASE)
_NUMBER = re.compile(r"(?P<prefix>.*?)(?P<value>[0-9]+)", re.DOTALL)
_TIME = re.compile(r"(?P<prefix>|.*[-_ =@])(?P<value>[0-9]+(?:\.[0-9]+)?)(?P<unit>s|ms|)", re.DOTALL)
_CLOCK = re.compile(
    r"(?P<prefix>|.*[^0-9])(?P<hours>[0-9]{1,3})[-_:.](?P<minutes>[0-5][0-9])[-_:.](?P<seconds>[0-5][0-9])"
    r"(?P<fraction>[.,][0-9]+|)",
    re.DOTALL,
)
_MOST_DIGITS = 30


def is_image(name: str) -> bool:
    """Whether a file counts as a picture of a video: by its extension; hidden files and optical flow do not."""
    extension = os.path.splitext(name)[1].lower()
    return extension in IMAGE_EXTENSIONS and not name.startswith(".") and not _FLOW.match(name)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a name says: what stands before the number, the number, in seconds or as a count."""

    prefix: str
    value: Fraction


def frame_times(names: Iterable[str], how: FrameNames, frame_rate: Fraction) -> list[tuple[str, Fraction]]:
    """Order the pictures of a folder and find their times.

    A name is a prefix, the same for all names of the folder (``image_``, ``frame``, none), and a value:

    - ``number``: digits, padded or not: picture n is shown at (n - smallest n) / frame_rate. Missing numbers are gaps:
      the pictures behind them keep their times.
    - ``seconds``: seconds with or without decimals (``12.48``, ``t_12.48``, ``12.48s``), or hours, minutes and seconds
      (``00-01-02.500``, also with ``_`` or ``:``); ``milliseconds``: the same as digits (``12480``, ``12480ms``).
      Times count from the earliest picture.
    - ``auto``: seconds where every name has the unit ``s``, or is of the form hours-minutes-seconds and one of them has
      decimals, or is a decimal number and one of them has a decimal point; milliseconds where every name has the unit
      ``ms``; else numbers. Plain digits are therefore always numbers: say so when they are milliseconds.

    Args:
        names: file names with extension, of images.
        how: see above.
        frame_rate: pictures per second of numbered names.

    Returns:
        Names with their times in seconds, ascending, the first at 0.

    Raises:
        DataError: NO_FRAMES for no names; BAD_FRAMES, with the name, when one bears no value, another prefix, or
            the value of another (``1.jpg`` and ``01.jpg``).
    """
    stems = {name: os.path.splitext(name)[0] for name in sorted(names)}
    if not stems:
        raise DataError(Reason.NO_FRAMES, "the folder holds no images")
    chosen = _guess(list(stems.values())) if how == "auto" else how
    read = {name: _read(name, stem, chosen) for name, stem in stems.items()}
    first_name, first = next(iter(read.items()))
    seen: dict[Fraction, str] = {}
    for name, one in read.items():
        if one.prefix.casefold() != first.prefix.casefold():
            raise DataError(
                Reason.BAD_FRAMES,
                f"{first_name!r} and {name!r} are not named alike: what stands before the {_NOUNS[chosen]} differs; "
                "keep one video a folder",
            )
        if one.value in seen:
            raise DataError(Reason.BAD_FRAMES, f"{seen[one.value]!r} and {name!r} bear the same {_NOUNS[chosen]}")
        seen[one.value] = name
    step = 1 / frame_rate if chosen == "number" else Fraction(1)
    earliest = min(seen)
    return [(seen[value], (value - earliest) * step) for value in sorted(seen)]


_NOUNS = {"number": "number", "seconds": "time", "milliseconds": "time"}


def _guess(stems: list[str]) -> Literal["number", "seconds", "milliseconds"]:
    times = [_TIME.fullmatch(stem) for stem in stems]
    units = {match["unit"] if match else "" for match in times}
    if units == {"ms"}:
        return "milliseconds"
    if units == {"s"}:
        return "seconds"
    clocks = [_CLOCK.fullmatch(stem) for stem in stems]
    if all(clocks) and any(match["fraction"] for match in clocks if match):
        return "seconds"
    if all(times) and units == {""} and any("." in match["value"] for match in times if match):
        return "seconds"
    return "number"


def _read(name: str, stem: str, how: Literal["number", "seconds", "milliseconds"]) -> _Read:
    if how == "number":
        match = _NUMBER.fullmatch(stem)
        if match:
            return _Read(match["prefix"], _value(name, match["value"]))
        raise DataError(Reason.BAD_FRAMES, f"{name!r} does not end in a number; every picture's name must")
    clock = _CLOCK.fullmatch(stem) if how == "seconds" else None
    if clock:
        whole = int(clock["hours"]) * 3600 + int(clock["minutes"]) * 60 + int(clock["seconds"])
        return _Read(clock["prefix"], whole + _value(name, "0" + (clock["fraction"].replace(",", ".") or ".0")))
    match = _TIME.fullmatch(stem)
    if match and match["unit"] in ("", "s" if how == "seconds" else "ms"):
        value = _value(name, match["value"])
        return _Read(match["prefix"], value if how == "seconds" else value / 1000)
    raise DataError(Reason.BAD_FRAMES, f"{name!r} is not a time in {how}; every picture's name must end in one")


def _value(name: str, digits: str) -> Fraction:
    if len(digits) > _MOST_DIGITS:
        raise DataError(Reason.BAD_FRAMES, f"{name!r}: a number of {len(digits)} digits")
    return Fraction(digits)
