"""A corpus of hostile files: damaged, lying, odd and badly named ones, the same for the same seed.

What is expected of a file is known beforehand only for some: "ok" must be packed, "reject" must not, "ignored" is no
input at all (hidden files), "either" depends on what the damage hit. For the last, and for all, there is another judge:
a file out of which ffmpeg gets as many pictures as the whole video had, without complaint, is good.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import hostile_bytes, hostile_videos
from .hostile_bases import FORMATS, NUM_PICTURES, Bases

Expectation = Literal["ok", "reject", "either", "ignored"]


@dataclass(frozen=True)
class Hostile:
    """One file of the corpus.

    Attributes:
        path: where it is.
        kind: what is wrong with it.
        expectation: what must become of it.
        pictures: how many the undamaged video has; None when that is not known.
    """

    path: Path
    kind: str
    expectation: Expectation
    pictures: int | None = None


@dataclass(frozen=True)
class _Recipe:
    kind: str
    name: str
    expectation: Expectation
    pictures: int | None
    make: hostile_videos.Maker


def make_corpus(folder: Path, seed: int, count: int = 320) -> list[Hostile]:
    """Write a hostile corpus.

    Args:
        folder: for the files; made when missing. Whole base videos are kept beside it, under ``folder + ".bases"``.
        seed: decides what is damaged where.
        count: number of files. Each kind is there at least once when ``count`` is not below the number of kinds (about
            50); 320 holds everything once and fills up with random damage.

    Returns:
        The files, in a fixed order.
    """
    rng = random.Random(seed)
    bases = Bases(folder.with_name(folder.name + ".bases"))
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Hostile] = []
    for recipe in _chosen(list(_fixed(rng)), rng, count):
        path = folder / recipe.name
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe.make(path, bases)
        made.append(Hostile(path, recipe.kind, recipe.expectation, recipe.pictures))
    return made


def _chosen(fixed: list[_Recipe], rng: random.Random, count: int) -> list[_Recipe]:
    """All fixed recipes and random damage up to ``count``, or a choice of them with as many kinds as possible."""
    if len(fixed) < count:
        return fixed + [_random_damage(n, rng) for n in range(count - len(fixed))]
    shuffled = rng.sample(fixed, len(fixed))
    first_of_kind = list({recipe.kind: recipe for recipe in shuffled}.values())
    rest = [recipe for recipe in shuffled if recipe not in first_of_kind]
    return (first_of_kind + rest)[:count]


def _fixed(rng: random.Random) -> Iterator[_Recipe]:
    for kind, name, expectation, pictures, make in hostile_videos.ODD:
        yield _Recipe(kind, f"odd/{kind.replace(':', '')}/{name}", expectation, pictures, make)  # type: ignore[arg-type]
    for number, (kind, base, damage) in enumerate(hostile_bytes.LIES):
        yield _damaged(kind, f"lies/{number:02d} {kind}", base, damage, rng.randrange(1 << 30))
    for name in FORMATS:
        yield _Recipe("whole", f"whole/{name}", "ok", NUM_PICTURES, _written(name))
    yield from _texts()
    yield from _names()
    yield from _no_files()


def _random_damage(number: int, rng: random.Random) -> _Recipe:
    kind, damage = hostile_bytes.ANYWHERE[number % len(hostile_bytes.ANYWHERE)]
    base = rng.choice(FORMATS)
    return _damaged(kind, f"damaged/{number:03d} {kind}", base, damage, rng.randrange(1 << 30))


def _damaged(kind: str, name: str, base: str, damage: hostile_bytes.Damage, seed: int) -> _Recipe:
    def make(path: Path, bases: Bases) -> None:
        path.write_bytes(damage(bases.data(base), random.Random(seed)))

    return _Recipe(kind, f"{name} {base}", "either", NUM_PICTURES, make)


def _written(base: str) -> hostile_videos.Maker:
    return lambda path, bases: path.write_bytes(bases.data(base))


_TEXTS = {
    "empty": "",
    "space": " \n" * 600,
    "text": "This is not a video, although its name says so.\n" * 40,
    "page": "<!DOCTYPE html><html><body>404 not found</body></html>\n" * 9,
    "concat": "ffconcat version 1.0\nfile 'target.mp4'\n",
    "concat without a head": "file 'target.mp4'\nfile '/etc/hostname'\n",
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\ntarget.mp4\n#EXT-X-ENDLIST\n",
    "hls of a device": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///dev/zero\n#EXT-X-ENDLIST\n",
    "pls": "[playlist]\nFile1=target.mp4\nNumberOfEntries=1\nVersion=2\n",
    "asx": '<asx version="3.0"><entry><ref href="target.mp4"/></entry></asx>\n',
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n",
    "dash": '<?xml version="1.0"?>\n<MPD type="static"><Period><AdaptationSet><Representation id="0"><BaseURL>'
    "target.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>\n",
    "image pattern": "%03d.png\n",
    "subtitles": "WEBVTT\n\n00:00.000 --> 00:01.000\nnothing\n",
}


def _texts() -> Iterator[_Recipe]:
    for name, text in _TEXTS.items():
        kind = "text" if name in ("empty", "space", "text", "page", "image pattern", "subtitles") else "list of files"
        yield _Recipe(kind, f"texts/{name}.mp4", "reject", None, lambda p, b, t=text: p.write_text(t))  # type: ignore[misc]
    yield _Recipe("whole", "texts/target.mp4", "ok", NUM_PICTURES, _written("front.mp4"))
    for name, magic in (
        ("ftyp", b"\0\0\0\x20ftypisom"),
        ("ebml", b"\x1aE\xdf\xa3\x9f\x42\x86\x81\x01"),
        ("riff", b"RIFF\xff\xff\xff\x7fAVI LIST"),
        ("ogg", b"OggS\0\2"),
        ("flv", b"FLV\1\1\0\0\0\x09\0\0\0\0"),
        ("gif", b"GIF89a\x40\0\x30\0\xf7\0\0"),
        ("asf", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
        ("ivf", b"DKIF\0\0\x20\0VP80"),
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("ts", b"\x47\x40\0\x10"),
        ("mpeg", b"\0\0\1\xba\x44"),
        ("nothing", b""),
    ):
        content = magic + random.Random(name).randbytes(6000)
        yield _Recipe(
            "random behind a magic",
            f"random/{name}.mp4",
            "reject",
            None,
            lambda p, b, c=content: p.write_bytes(c),  # type: ignore[misc]
        )


# Names as bytes, below "names/", and whether an id can be made of them.
_NAMES: tuple[tuple[bytes, Expectation], ...] = (
    (b"with space.mp4", "ok"),
    (b"'single' \"double\".mp4", "ok"),
    (b"$(touch harm) `touch harm`;&|<>*?.mp4", "ok"),
    (b"-leading-dash.mp4", "ok"),
    (b"--output=harm.mp4", "ok"),
    (b"back\\slash.mp4", "ok"),
    (b"per%cent%s%n%d {0} {x}.mp4", "ok"),
    (b"dots.in.name.v1.2.mp4", "ok"),
    (b"two..dots...mp4", "ok"),
    (b"no extension twice.mp4.MP4", "ok"),
    (b"=1+1,comma;semicolon.mp4", "ok"),
    ("Ünïcödé 北京 видео 😀.mp4".encode(), "ok"),
    ("e\u0301 decomposed.mp4".encode(), "ok"),
    ("right-to-left \u202e4pm.mp4".encode(), "ok"),
    (b"n" * 251 + b".mp4", "ok"),
    (b"/".join([b"d" * 40] * 8) + b"/300 characters deep.mp4", "ok"),
    (b"/".join([b"d"] * 60) + b"/many folders.mp4", "ok"),
    (b"new\nline.mp4", "reject"),
    (b"12:00:00 I\r12:00:00 I all is well.mp4", "reject"),
    (b"forged\n12:00:00 I all is well.mp4", "reject"),
    (b"escape \x1b[2J\x1b]0;title\x07\x1b[31m.mp4", "reject"),
    (b"tab\tbell\x07.mp4", "reject"),
    ("next line \u0085 separator \u2028.mp4".encode(), "reject"),
    (b"undecodable \xff\xfe.mp4", "reject"),
    (b"latin caf\xe9.mp4", "reject"),
    (b"escape \x9b31m undecodable.mp4", "reject"),
    (b"folder\nwith a line/inside.mp4", "reject"),
    (b" leading space.mp4", "ok"),  # the id begins with the folder's name
    (b"trailing space .mp4", "reject"),
    (b".hidden.mp4", "ignored"),
    (b".hidden folder/inside.mp4", "ignored"),
    (b"..mp4", "ignored"),
)


def _names() -> Iterator[_Recipe]:
    for name, expectation in _NAMES:
        pictures = None if expectation == "ignored" else NUM_PICTURES
        yield _Recipe("strange name", "names/" + os.fsdecode(name), expectation, pictures, _written("front.mp4"))
    for number in range(3):
        yield _Recipe("duplicate", f"duplicates/copy {number}.mp4", "ok", NUM_PICTURES, _written("h264.mkv"))
    for name in ("clip.mp4", "clip.mkv", "clip.avi"):
        yield _Recipe("name of another format", f"formats/{name}", "ok", NUM_PICTURES, _written("picture.gif"))


def _no_files() -> Iterator[_Recipe]:
    """What bears a video's name and is no regular file."""

    def linked(target: str) -> hostile_videos.Maker:
        return lambda path, bases: path.symlink_to(target)

    def folder(path: Path, bases: Bases) -> None:
        path.mkdir()

    yield _Recipe("link", "links/a.mp4", "reject", None, linked("b.mp4"))
    yield _Recipe("link", "links/b.mp4", "reject", None, linked("a.mp4"))
    yield _Recipe("link", "links/nowhere.mp4", "reject", None, linked("nothing there.mp4"))
    yield _Recipe("link", "links/folder.mp4", "ignored", None, linked("."))
    yield _Recipe("link", "links/good.mp4", "ok", NUM_PICTURES, lambda p, b: p.symlink_to(b.path("vp8.webm").resolve()))
    yield _Recipe("device", "devices/zero.mp4", "reject", None, linked("/dev/zero"))
    yield _Recipe("device", "devices/null.mp4", "reject", None, linked("/dev/null"))
    yield _Recipe("device", "devices/memory.mp4", "reject", None, linked("/proc/self/mem"))
    yield _Recipe("pipe", "devices/pipe.mp4", "reject", None, lambda path, bases: os.mkfifo(path))
    yield _Recipe("folder", "devices/folder.mp4", "ignored", None, folder)
