"""Opening videos: the one place where a file's bytes meet a demuxer.

Some container formats are lists of other files (playlists, concatenation lists, manifests), and a demuxer that guesses
the format from the bytes would follow them: a text file named ``clip.mp4`` could put another file's pictures under its
own name. So only formats that hold their own pictures are allowed, the demuxer sees a stream of bytes and never a path,
and every attempt to open something else is refused.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from ...core.errors import DataError, Reason
from .structure import Readable, broken_off

# FFmpeg's demuxer name -> extension of a shard member. A demuxer that is not listed here is never used.
EXTENSION_OF_FORMAT = {
    "mov": "mp4",
    "matroska": "mkv",
    "avi": "avi",
    "gif": "gif",
    "apng": "apng",
    "mpegts": "ts",
    "mpeg": "mpg",
    "mpegvideo": "m2v",
    "m4v": "m4v",
    "flv": "flv",
    "asf": "wmv",
    "ogg": "ogv",
    "h263": "h263",
    "h264": "h264",
    "hevc": "hevc",
    "obu": "obu",
    "ivf": "ivf",
    "yuv4mpegpipe": "y4m",
    "mjpeg": "mjpeg",
    "mxf": "mxf",
    "dv": "dv",
    "nut": "nut",
    "rm": "rm",
    "vc1": "vc1",
    "wtv": "wtv",
}
CONTAINERS = tuple(EXTENSION_OF_FORMAT)
"""The allow-list given to every demuxer."""

_HEAD_BYTES = 4096
_BUFFER_BYTES = 1 << 17
_DECODERS_BORDER = 128  # pixels
# First bytes (after white space and a byte order mark, lower case) of files that name other files.
_PLAYLISTS = (
    (b"ffconcat", "a concatenation list (ffconcat)"),
    (b"#extm3u", "an M3U or HLS playlist"),
    (b"[playlist]", "a PLS playlist"),
    (b"[reference]", "an ASF redirector"),
    (b"rtsptext", "a QuickTime stream link"),
    (b"<asx", "an ASX playlist"),
    (b"<smil", "a SMIL playlist"),
    (b"<mpd", "a DASH manifest"),
    (b"v=0\r\no=", "a session description (SDP)"),
    (b"v=0\no=", "a session description (SDP)"),
)
_XML_PLAYLISTS = ((b"<mpd", "a DASH manifest"), (b"<smil", "a SMIL playlist"), (b"playlist", "an XML playlist"))
_SOUND = ((b"ID3", "MP3"), (b"fLaC", "FLAC"), (b"#!AMR", "AMR"), (b"wvpk", "WavPack"), (b"MAC ", "Monkey's Audio"))


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted as a video; checked before a picture is decoded.

    Attributes:
        max_side: largest width or height, pixels.
        max_pixels: largest width x height.
        max_seconds: longest time between the first and the last picture, seconds.
    """

    max_side: int = 16384
    max_pixels: int = 100_000_000
    max_seconds: float = 86400.0

    def check_size(self, width: int, height: int) -> None:
        """Raise DataError(BAD_DIMENSIONS) for a picture of no or excessive size."""
        if width <= 0 or height <= 0:
            raise DataError(Reason.BAD_DIMENSIONS, f"the picture is {width}x{height} pixels")
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise DataError(
                Reason.BAD_DIMENSIONS,
                f"the picture is {width}x{height} pixels; the limit is {self.max_side} a side and "
                f"{self.max_pixels} in all",
            )


class NamelessFile(io.RawIOBase):
    """A file for reading whose path nobody can see: a demuxer resolves no other file's name against it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def open_bytes(source: Path | bytes) -> tuple[IO[bytes], int]:
    """Open a video's bytes for reading.

    Returns:
        The file and its size in bytes (never 0).

    Raises:
        DataError: MISSING, UNREADABLE (also for a folder, a pipe or a device) or EMPTY_FILE.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise DataError(Reason.EMPTY_FILE, "0 bytes")
        return io.BytesIO(source), len(source)
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # opening a pipe would wait for a writer for ever
            raise DataError(Reason.UNREADABLE, "not a regular file")
        file = open(source, "rb", buffering=0)  # noqa: SIM115 - handed to the caller
    except FileNotFoundError:
        raise DataError(Reason.MISSING, "no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(Reason.UNREADABLE, getattr(error, "strerror", None) or str(error)) from None
    size = os.fstat(file.fileno()).st_size
    if not size:
        file.close()
        raise DataError(Reason.EMPTY_FILE, "0 bytes")
    return file, size


def _refuse(url: str, flags: int, options: dict[str, Any]) -> Any:
    raise PermissionError("a video may not open other files")


def open_container(source: Path | bytes) -> InputContainer:
    """Open a video for demuxing; use it in a ``with`` statement.

    Args:
        source: a path or the file's bytes.

    Returns:
        An open ``av`` container of an allowed format that holds at least one stream.

    Raises:
        DataError: MISSING, UNREADABLE, EMPTY_FILE, FORBIDDEN_FORMAT (a list of other files), NOT_A_VIDEO,
            NO_VIDEO_STREAM (a sound file), TRUNCATED or DAMAGED (a known format without a usable index).
    """
    file, size = open_bytes(source)
    nameless = NamelessFile(file)  # closes the file when nobody holds it any more
    try:
        return av.open(
            nameless,
            "r",
            # enable_drefs: QuickTime files can name other files as the home of their samples.
            options={"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "", "enable_drefs": "0"},
            io_open=_refuse,
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
        )
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise out_of_memory(error) or _why_not_opened(nameless, size, error) from None


def _why_not_opened(file: Readable, size: int, error: Exception) -> DataError:
    try:
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        listed = _playlist(head)
        if listed:
            return DataError(Reason.FORBIDDEN_FORMAT, f"{listed}; put the videos it names themselves among the inputs")
        sound = _sound(head)
        if sound:
            return DataError(Reason.NO_VIDEO_STREAM, f"a sound file ({sound})")
        cut = broken_off(file, size)
    except OSError as failure:
        return DataError(Reason.UNREADABLE, failure.strerror or str(failure))
    if cut:
        return DataError(Reason.TRUNCATED, cut)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"styp", b"wide") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"OggS"):
        return DataError(Reason.DAMAGED, f"the container's header or index is unusable ({_words(error)})")
    return DataError(Reason.NOT_A_VIDEO, "the first bytes belong to no video container that is read here")


def _playlist(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _PLAYLISTS:
        if text.startswith(start):
            return name
    if text.startswith((b"<?xml", b"<!--")):
        for part, name in _XML_PLAYLISTS:
            if part in text:
                return name
    return ""


def _sound(head: bytes) -> str:
    for start, name in _SOUND:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    return ""


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).split(":")[0]


def out_of_memory(error: Exception) -> DataError | None:
    """The rejection for a file that asks for more memory than the process may have, or None for another error."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return DataError(Reason.DECODER_DIED, "it asks for more memory than the limit")
    return None


def describe(error: Exception) -> str:
    """A decoder's or demuxer's complaint, without the file name that it adds."""
    return _words(error)


def video_stream(container: InputContainer) -> VideoStream:
    """The stream that holds the video: the first one marked as default, else the first; cover art does not count.

    Raises:
        DataError: NO_VIDEO_STREAM, or NO_FRAMES when its codec cannot be decoded.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds: list[str] = sorted({s.type for s in container.streams if s.type != "video"}) or ["cover art"]
        raise DataError(Reason.NO_VIDEO_STREAM, f"the container holds {' and '.join(kinds)} only")
    decodable = [s for s in streams if s.codec_context is not None]
    if not decodable:
        raise DataError(Reason.NO_FRAMES, "no decoder for the video stream's codec")
    return next((s for s in decodable if s.disposition & Disposition.default), decodable[0])


def may_begin_anywhere(stream: VideoStream) -> bool:
    """Whether packets that fail before the first keyframe may only lack the ones before them.

    H.264 and HEVC with lengths instead of start codes (ISO/IEC 14496-15; the record begins with version 1) fail only
    when they are damaged: a picture whose predecessors are missing is left out without an error. Damage also hides that
    such a packet is a keyframe.
    """
    context = stream.codec_context
    return context.name not in ("h264", "hevc") or not (context.extradata or b"").startswith(b"\x01")


def bound_pictures(stream: VideoStream, limits: Limits) -> None:
    """Have the decoder refuse larger pictures before it makes room for them; to be called before it decodes."""
    context = stream.codec_context
    border = _DECODERS_BORDER * (2 * limits.max_side + _DECODERS_BORDER)  # what decoders add to each side counts
    context.options = {**context.options, "max_pixels": str(limits.max_pixels + border)}


def outgrown(error: Exception, stream: VideoStream) -> DataError | None:
    """The rejection for a picture that a decoder refused for its size (see `bound_pictures`), or None."""
    context = stream.codec_context
    if getattr(error, "errno", None) == errno.EINVAL and not context.width * context.height:
        return DataError(Reason.BAD_DIMENSIONS, "a picture within the video is larger than the limit")
    return None


def extension_of(container: InputContainer, source: Path | bytes) -> str:
    """Extension (lower case, no dot) that says what the container is, whatever the file was called."""
    names = set(container.format.name.split(","))
    extension = next(EXTENSION_OF_FORMAT[name] for name in CONTAINERS if name in names)
    if extension not in ("mp4", "mkv"):
        return extension
    file, _ = open_bytes(source)
    with file:
        head = file.read(64)
    if extension == "mkv":
        return "webm" if b"webm" in head else "mkv"
    brand = head[8:12] if head[4:8] == b"ftyp" else b"qt  "
    return "mov" if brand == b"qt  " else "3gp" if brand.startswith(b"3g") else "mp4"
