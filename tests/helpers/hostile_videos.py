"""Videos that are odd and whole, or hold no video: each is made by one function of a path and the base videos."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from .hostile_bases import VPX, X264, X265, Bases, encode, ffmpeg
from .hostile_bytes import box

Maker = Callable[[Path, Bases], object]

SHARED_PICTURES = 1500
TONE = ("-f", "lavfi", "-i", "sine=duration=1:sample_rate=8000")
_HDR = ("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")


def _source(size: str, seconds: float = 0.5, rate: int = 10) -> str:
    pattern = "testsrc2=" if min(map(int, size.split("x"))) > 8 else "color=teal:"
    return f"{pattern}size={size}:rate={rate}:duration={seconds}"


def _encoded(*options: str, size: str = "64x48", seconds: float = 2.0) -> Maker:
    return lambda path, bases: encode(path, *options, source=_source(size, seconds))


def _filtered(chain: str, *options: str) -> Maker:
    return lambda path, bases: encode(path, *options, source=f"{_source('64x48', 2)},{chain}")


def _copied(name: str, *options: str, before: tuple[str, ...] = ()) -> Maker:
    """A base video in another wrapping, with nothing encoded anew."""
    exact = ("-c", "copy", "-fflags", "+bitexact")
    return lambda path, bases: ffmpeg(*before, "-i", bases.path(name), *exact, *options, path)


def _rotated(*display: str) -> Maker:
    return _copied("front.mp4", before=display)


def _many_sound_tracks(path: Path, bases: Bases) -> None:
    sound = [part for _ in range(40) for part in ("-map", "1:a")]
    ffmpeg("-i", bases.path("h264.mkv"), *TONE, "-map", "0:v", *sound, "-c:v", "copy", "-c:a", "pcm_u8", path)


def _cover(path: Path) -> Path:
    picture = path.with_name(f".{path.name}.png")
    ffmpeg("-f", "lavfi", "-i", "color=red:s=32x32", "-frames:v", "1", picture)
    return picture


def _with_cover(path: Path, bases: Bases) -> None:
    cover = _cover(path)
    maps = ("-map", "0:v", "-map", "1:v", "-c", "copy", "-disposition:v:1", "attached_pic")
    ffmpeg("-i", bases.path("front.mp4"), "-i", cover, *maps, path)
    cover.unlink()


def _cover_only(path: Path, bases: Bases) -> None:
    cover = _cover(path)
    ffmpeg(*TONE, "-i", cover, "-map", "0:a", "-map", "1:v", "-c:v", "copy", "-disposition:v:0", "attached_pic", path)
    cover.unlink()


def _subtitles(path: Path) -> Path:
    text = path.with_name(f".{path.name}.srt")
    text.write_text("1\n00:00:00,000 --> 00:00:01,000\nNothing to see\n")
    return text


def _subtitles_only(path: Path, bases: Bases) -> None:
    text = _subtitles(path)
    ffmpeg("-f", "srt", "-i", text, "-c:s", "srt" if path.suffix == ".mkv" else "mov_text", path)
    text.unlink()


def _with_subtitles(path: Path, bases: Bases) -> None:
    text = _subtitles(path)
    ffmpeg("-i", bases.path("h264.mkv"), "-f", "srt", "-i", text, "-map", "1", "-map", "0", "-c", "copy", path)
    text.unlink()


def _sound_only(path: Path, bases: Bases) -> None:
    codec = {".webm": "libopus", ".ogv": "libvorbis", ".wmv": "wmav2"}.get(path.suffix, "aac")
    ffmpeg(*TONE, "-ar", "48000", "-c:a", codec, path)


def _without_first_keyframe(path: Path, bases: Bases) -> None:
    ffmpeg("-i", bases.path("h264.ts"), "-c", "copy", "-bsf:v", "noise=drop=lt(n\\,3)", "-f", "mpegts", path)


def _one_picture_shared(path: Path, bases: Bases) -> None:
    """A movie whose samples are all the same bytes: small on the disk, long when decoded."""
    encode(path, "-c:v", "mjpeg", "-q:v", "31", "-pix_fmt", "yuvj420p", source="color=gray:s=640x480:r=1:d=1")
    data = path.read_bytes()
    (offset,) = struct.unpack_from(">I", data, data.index(b"stco") + 12)
    (size,) = struct.unpack_from(">I", data, data.index(b"stsz") + 8)  # one size for all samples
    new = (
        box(b"stts", struct.pack(">4I", 0, 1, SHARED_PICTURES, 512))
        + box(b"stsc", struct.pack(">5I", 0, 1, 1, 1, 1))
        + box(b"stsz", struct.pack(">3I", 0, size, SHARED_PICTURES))
        + box(b"stco", struct.pack(">2I", 0, SHARED_PICTURES) + struct.pack(">I", offset) * SHARED_PICTURES)
    )
    start, tables = data.index(b"stts") - 4, data.index(b"stbl") - 4
    end = tables + struct.unpack_from(">I", data, tables)[0]
    out = bytearray(data[:start] + new + data[end:])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = out.rindex(kind, 0, start) - 4
        struct.pack_into(">I", out, at, struct.unpack_from(">I", out, at)[0] + len(new) - (end - start))
    path.write_bytes(out.replace(b"edts", b"skip"))  # the edit list would hide all but the first second


def _black_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, all black; its size grows slowly with the number of pixels."""
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    chunks = ((b"IHDR", struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _png_video(width: int, height: int) -> Maker:
    def make(path: Path, bases: Bases) -> None:
        picture = path.with_name(f".{path.name}.png")
        picture.write_bytes(_black_png(width, height))
        ffmpeg("-i", picture, "-c", "copy", path)
        picture.unlink()

    return make


def _growing(path: Path, bases: Bases) -> None:
    """Pictures of 64x48 and then one of 12000x12000: the header and the first picture say nothing of it."""
    pictures = path.with_name(f".{path.name}.pngs")
    pictures.write_bytes(_black_png(64, 48) * 5 + _black_png(12000, 12000))
    ffmpeg("-f", "png_pipe", "-framerate", "5", "-i", pictures, "-c", "copy", path)
    pictures.unlink()


# kind, file name, what is expected of it, pictures (None: not known beforehand), how it is made.
OK, REJECT, EITHER = "ok", "reject", "either"
ODD: tuple[tuple[str, str, str, int | None, Maker], ...] = (
    ("odd size", "1x1.webm", OK, 5, _encoded("-c:v", "libvpx-vp9", *VPX, size="1x1", seconds=0.5)),
    ("odd size", "1x1.gif", OK, 5, _encoded(size="1x1", seconds=0.5)),
    ("odd size", "3x5.mkv", OK, 5, _encoded("-c:v", "libvpx", *VPX, size="3x5", seconds=0.5)),
    ("odd size", "321x241.mp4", OK, 5, _encoded("-c:v", "libx264", "-pix_fmt", "yuv444p", size="321x241", seconds=0.5)),
    ("odd size", "321x241.webm", OK, 5, _encoded("-c:v", "libvpx", *VPX, size="321x241", seconds=0.5)),
    ("giant size", "8192x16.webm", OK, 5, _encoded("-c:v", "libvpx", *VPX, size="8192x16", seconds=0.5)),
    ("giant size", "8000x6000.mkv", OK, 1, _png_video(8000, 6000)),
    ("giant size", "9000x9000.mov", OK, 1, _png_video(9000, 9000)),
    ("giant size", "over a side.mkv", REJECT, 1, _png_video(20000, 64)),
    ("giant size", "over in all.mkv", REJECT, 1, _png_video(16000, 16000)),
    ("decompression bomb", "growing.mkv", EITHER, None, _growing),
    ("decompression bomb", "shared.mov", OK, SHARED_PICTURES, _one_picture_shared),
    ("decompression bomb", "plain.gif", OK, 20, lambda p, b: encode(p, source="color=teal:s=3000x3000:r=10:d=2")),
    ("one picture", "one.mp4", OK, 1, _encoded(*X264, seconds=0.1)),
    ("one picture", "one.gif", OK, 1, _encoded(seconds=0.1)),
    ("one picture", "one.ts", OK, 1, _encoded(*X264, seconds=0.1)),
    ("rotated", "90.mp4", OK, 20, _rotated("-display_rotation", "90")),
    ("rotated", "180.mp4", OK, 20, _rotated("-display_rotation", "180")),
    ("rotated", "odd angle.mp4", OK, 20, _rotated("-display_rotation", "17.5")),
    ("rotated", "mirrored.mp4", OK, 20, _rotated("-display_rotation", "270", "-display_hflip")),
    ("10 bit", "hevc.mp4", OK, 20, _encoded(*X265, "-pix_fmt", "yuv420p10le")),
    ("10 bit", "h264.mkv", OK, 20, _encoded("-c:v", "libx264", "-pix_fmt", "yuv420p10le")),
    ("10 bit", "vp9.webm", OK, 20, _encoded("-c:v", "libvpx-vp9", *VPX, "-pix_fmt", "yuv420p10le")),
    ("4:4:4", "h264.mp4", OK, 20, _encoded("-c:v", "libx264", "-pix_fmt", "yuv444p")),
    ("4:2:2", "h264.mp4", OK, 20, _encoded("-c:v", "libx264", "-pix_fmt", "yuv422p")),
    ("4:2:2", "prores.mov", OK, 20, _encoded("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le")),
    ("no colour", "gray.mkv", OK, 20, _encoded("-c:v", "ffv1", "-pix_fmt", "gray")),
    ("transparent", "alpha.webm", OK, 20, _encoded("-c:v", "libvpx-vp9", *VPX, "-pix_fmt", "yuva420p")),
    ("HDR", "pq.mp4", OK, 20, _encoded(*X265, "-pix_fmt", "yuv420p10le", *_HDR)),
    ("interlaced", "h264.mkv", OK, None, _filtered("interlace", *X264, "-flags:v", "+ilme+ildct+bitexact")),
    ("interlaced", "mpeg2.mpg", OK, None, _filtered("fps=50,interlace", "-c:v", "mpeg2video", "-flags", "+ilme+ildct")),
    (
        "variable rate",
        "random.mkv",
        OK,
        None,
        _filtered("select='not(mod(n\\,3))+lt(n\\,7)'", "-fps_mode", "vfr", *X264),
    ),
    ("variable rate", "random.mp4", OK, None, _filtered("select='gt(random(1)\\,0.4)'", "-fps_mode", "vfr", *X264)),
    ("huge gap", "hour.mp4", OK, 20, _filtered("setpts='PTS+gt(N\\,9)*3600/TB'", "-fps_mode", "vfr", *X264)),
    ("huge gap", "hour.mkv", OK, 20, _filtered("setpts='PTS+gt(N\\,9)*3600/TB'", "-fps_mode", "vfr", *X264)),
    ("huge gap", "hour.ts", OK, 20, _copied("h264.ts", "-bsf:v", "setts=ts=TS+gt(N\\,9)*90000*3600")),
    ("huge gap", "month.mkv", EITHER, 20, _filtered("setpts='PTS+gt(N\\,9)*2592000/TB'", "-fps_mode", "vfr", *X264)),
    ("huge gap", "wrapped.ts", EITHER, 20, _copied("h264.ts", "-output_ts_offset", "95443.0")),
    ("negative times", "edit list.mp4", EITHER, 20, _copied("end.mp4", "-output_ts_offset", "-0.5")),
    ("negative times", "no edit list.mp4", OK, 20, _copied("end.mp4", "-output_ts_offset", "-3", "-use_editlist", "0")),
    ("negative times", "before.nut", OK, 20, _copied("mpeg4.nut", "-output_ts_offset", "-3")),
    ("negative times", "shifted.mkv", OK, 20, _copied("h264.mkv", "-output_ts_offset", "-3")),
    ("late start", "day.mkv", OK, 20, _copied("h264.mkv", "-output_ts_offset", "86000", "-copyts")),
    ("unordered times", "backwards.mp4", EITHER, 20, _copied("mpeg4.avi", "-bsf:v", "setts=dts=N:pts=40-N")),
    ("unordered times", "equal.mkv", EITHER, 20, _copied("vp8.webm", "-bsf:v", "setts=dts=N:pts=7")),
    ("no keyframe at the start", "recording.ts", EITHER, None, _without_first_keyframe),
    ("no keyframe at the start", "open.mkv", EITHER, None, _copied("h264.mkv", "-bsf:v", "noise=drop=lt(n\\,3)")),
    ("no keyframe at the start", "never.mp4", EITHER, None, _copied("front.mp4", "-bsf:v", "noise=drop=key")),
    ("dropped packets", "some.mp4", EITHER, None, _copied("front.mp4", "-bsf:v", "noise=drop=eq(mod(n\\,6)\\,4)")),
    ("dropped packets", "some.ts", EITHER, None, _copied("h264.ts", "-bsf:v", "noise=drop=eq(mod(n\\,6)\\,4)")),
    ("40 sound tracks", "sound.mkv", OK, 20, _many_sound_tracks),
    ("40 sound tracks", "sound.mov", OK, 20, _many_sound_tracks),
    ("attached picture", "cover.mp4", OK, 20, _with_cover),
    ("attached picture", "cover only.mp4", REJECT, None, _cover_only),
    ("subtitles", "first.mkv", OK, 20, _with_subtitles),
    ("subtitles", "only.mkv", REJECT, None, _subtitles_only),
    ("subtitles", "only.mp4", REJECT, None, _subtitles_only),
    *(
        ("sound only", f"sound{e}", REJECT, None, _sound_only)
        for e in (".mp4", ".mkv", ".webm", ".ts", ".ogv", ".avi", ".flv")
    ),
)
