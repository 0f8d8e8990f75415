"""Long videos become clips: cut at keyframes, packets copied, nothing encoded anew.

A keyframe may be followed by pictures that are shown before it and refer to what came before it (an open group of
pictures: usual with x265, MPEG-2 and Blu-ray). They belong to the clip before; there the keyframe is stored once more
behind them, hidden by the MP4's edit list, and the clip that begins with the keyframe goes without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from av.packet import Packet

from ...core.errors import DataError, Reason
from .clips import ClipFile
from .container import Limits, open_container, out_of_memory, video_stream
from .packet_times import PacketTimes, packets_of, read_packet_times
from .pieces import PieceWriter
from .probe import DecodingPlan, make_plan, probe

WHOLE_UP_TO = 1.5
"""A video of up to this many times the clip length stays whole; so does the end of a video."""
_ROUNDING_SECONDS = 1e-3  # containers that count milliseconds
_NEAREST = 0.5  # a clip is at least this share of the clip length
_ATTEMPTS = 3
_TIME_TOLERANCE_SECONDS = 1e-6
_MATROSKA_TOLERANCE_SECONDS = 1.1e-3  # Matroska counts milliseconds

_MP4_CODECS = frozenset(["h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg"])
_MOV_CODECS = frozenset(["prores", "dnxhd", "h263"])
_MATROSKA_CODECS = frozenset(["vp8", "vp9", "av1", "theora", "prores", "ffv1"])
# Kept in the container they come in.
_OLD_CODECS = frozenset(["flv1", "wmv1", "wmv2", "msmpeg4v2", "msmpeg4v3", "huffyuv"])


def cut_at_keyframes(
    source: Path, clip_seconds: float, folder: Path, limits: Limits, *, plan: DecodingPlan | None = None
) -> list[ClipFile]:
    """Cut a long video into clips of about ``clip_seconds``, without encoding.

    The video stream alone is copied: sound, subtitles and chapters stay behind. Every picture of the source is shown
    by exactly one clip, bit for bit as in the source, at ``start_seconds`` plus its time in the clip. Rotation and
    colour stay. The same source gives the same bytes.

    Each cut is at the keyframe nearest to where it is due, between half and one and a half of the clip length after
    the cut before; keyframes that begin a closed group of pictures are preferred. Where there is none, the clip is as
    long as it must be. The last clip may have up to 1.5 times the clip length.

    A clip is MP4 where the codec goes with it (H.264, HEVC, AV1, VP9, MPEG-4, MPEG-2, MPEG-1, MJPEG; from any
    container, since MP4 keeps every time exactly), WebM from WebM, MOV for ProRes and its like from MOV, the source's
    own for old codecs in WMV, FLV and AVI, else Matroska, whose times are whole milliseconds. A reader that follows
    edit lists sees nothing but the clip's own pictures. One that does not may see, in an MP4 that was cut in an open
    group of pictures, the next clip's first picture once more as its last one, at ``duration_seconds``.

    Args:
        source: a video that `probe.probe` accepts.
        clip_seconds: length of a clip, seconds, above 0.
        folder: where the clips go, as ``000000.mp4`` and so on; exists. Memory does not grow with the file's size,
            only by some bytes a picture.
        limits: largest picture and longest video.
        plan: from `probe.make_plan` for the same source, when the caller has it already.

    Returns:
        The clips in order of time, at least two; or none: the video stays whole, because it is not longer than 1.5
        clips, has no keyframe to cut at, or cannot be cut without loss (GIF and APNG, raw streams and AVI with
        reordered pictures, whose pictures bear no times of their own; edit lists of several parts; codec
        parameters that change in the middle; intra refresh).

    Raises:
        DataError: the source cannot be used (as `probe.probe`).
        OSError: the disk is full, or the folder cannot be written. Clips written so far are left to the caller.
        ValueError: ``clip_seconds`` is not positive.
    """
    if not 0 < clip_seconds < float("inf"):
        raise ValueError(f"clip_seconds is {clip_seconds}; give a positive number of seconds")
    plan = plan or make_plan(source, limits=limits)
    if plan.damage is not None:
        raise plan.damage
    if plan.probe.duration_seconds <= WHOLE_UP_TO * clip_seconds + _ROUNDING_SECONDS:
        return []
    container = _container_of_pieces(source, plan)
    scan = read_packet_times(source, plan) if container else None
    if not container or scan is None:
        return []
    usable, clean = scan.cuts(leading_allowed=container in ("mp4", "mov"))
    for _ in range(_ATTEMPTS):
        starts = _choose(scan, usable, clean, clip_seconds, plan.probe.duration_seconds)
        if len(starts) < 2:
            return []
        pieces = _pieces_of(scan, starts)
        paths = [folder / f"{number:06d}.{container}" for number in range(len(pieces))]
        if not _write(source, container, scan, pieces, paths):
            break
        clips, unclean = _account(scan, pieces, paths, container, plan, limits)
        if not unclean:
            return clips
        _remove(paths)
        if 0 in unclean:  # not the fault of a cut
            break
        kept = ~np.isin(usable, [starts[number] for number in unclean])
        usable, clean = usable[kept], clean[kept]
    _remove(paths)
    return []


def _container_of_pieces(source: Path, plan: DecodingPlan) -> str:
    codec, extension = plan.probe.codec, plan.probe.container
    if extension == "webm" and codec in _MATROSKA_CODECS:
        return "webm"
    if codec in _MP4_CODECS:
        return "mp4"
    if extension in ("mp4", "mov", "3gp") and codec in _MOV_CODECS:
        return "mov"
    if extension in ("wmv", "flv", "avi") and codec in _OLD_CODECS:
        return extension
    return "mkv" if codec in _MATROSKA_CODECS else ""


def _choose(
    scan: PacketTimes, usable: np.ndarray, clean: np.ndarray, clip_seconds: float, duration: float
) -> list[int]:
    """First packets of the clips: 0, then the keyframes to cut at."""
    seconds = (scan.pts[usable] - scan.first) * scan.unit  # ascending
    starts, at = [0], 0.0
    while duration - at > WHOLE_UP_TO * clip_seconds + _ROUNDING_SECONDS:
        begin, end = np.searchsorted(seconds, [at + _NEAREST * clip_seconds, at + WHOLE_UP_TO * clip_seconds])
        if begin == len(seconds):
            break
        near = np.arange(begin, max(end, begin + 1))
        if clean[near].any():
            near = near[clean[near]]
        chosen = near[np.argmin(np.abs(seconds[near] - at - clip_seconds))]
        starts.append(int(usable[chosen]))
        at = float(seconds[chosen])
    return starts


@dataclass(eq=False)
class _Piece:
    """One clip: its packets (indices, ascending), their decoding times, and what it shows."""

    members: np.ndarray
    dts: np.ndarray
    start: int
    end: int
    num_frames: int
    hidden: bool


def _pieces_of(scan: PacketTimes, starts: list[int]) -> list[_Piece]:
    pieces = []
    for number, start in enumerate(starts):
        after = starts[number + 1] if number + 1 < len(starts) else len(scan.pts)
        members = np.arange(start, after)
        if number:
            members = np.setdiff1d(members, scan.leading(start), assume_unique=True)
        begin = int(scan.pts[start]) if number else scan.first
        end = scan.end
        if after < len(scan.pts):
            end = int(scan.pts[after])
            leading = scan.leading(after)
            if len(leading):
                members = np.concatenate([members, [after], leading])
        pts = scan.pts[members]
        visible = scan.shown[members] & (pts >= begin) & (pts < end)
        hidden = not visible.all() and bool((pts >= end).any() or not scan.shown[members][pts >= begin].all())
        pieces.append(_Piece(members, _decoding_times(pts - begin), begin, end, int(visible.sum()), hidden))
    return pieces


def _decoding_times(pts: np.ndarray) -> np.ndarray:
    """int64 [N], strictly ascending and never later than ``pts``: the sorted times, moved back as far as needed."""
    count = np.arange(len(pts))
    ascending = np.maximum.accumulate(np.sort(pts) - count) + count
    return ascending - max(0, int((ascending - pts).max()))


def _write(source: Path, container: str, scan: PacketTimes, pieces: list[_Piece], paths: list[Path]) -> bool:
    """Copy the packets of every piece in one pass; False when the container cannot hold them."""
    writing: list[_Writing] = []  # two at most: a keyframe goes to the clip before it as well
    opened, index = 0, 0
    with open_container(source) as source_container:
        stream = video_stream(source_container)
        try:
            for number, packet in enumerate(packets_of(source_container, stream)):
                if index == len(scan.position):
                    break
                if number != scan.position[index]:
                    continue
                if opened < len(pieces) and pieces[opened].members[0] == index:
                    piece = pieces[opened]
                    shown = piece.end - piece.start if piece.hidden else None
                    writing.append(_Writing(piece, PieceWriter(paths[opened], container, stream, shown)))
                    opened += 1
                for entry in list(writing):
                    if entry.write(packet, index, scan):
                        writing.remove(entry)
                        entry.writer.finish()
                index += 1
        except OSError:
            raise
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            memory = out_of_memory(error)
            if memory:
                raise memory from None
            return False
        finally:
            for entry in writing:
                entry.writer.abandon()
    if writing or opened < len(pieces):
        raise DataError(Reason.UNREADABLE, "the file shrank while it was cut")
    return True


@dataclass(eq=False)
class _Writing:
    """A piece being written, and how many of its packets are."""

    piece: _Piece
    writer: PieceWriter
    written: int = 0

    def write(self, packet: Packet, index: int, scan: PacketTimes) -> bool:
        """Write packet ``index`` if it belongs to the piece; True after the last one."""
        piece = self.piece
        if piece.members[self.written] == index:
            self.writer.write(packet, int(scan.pts[index]) - piece.start, int(piece.dts[self.written]))
            self.written += 1
        return self.written == len(piece.members)


def _account(
    scan: PacketTimes, pieces: list[_Piece], paths: list[Path], container: str, plan: DecodingPlan, limits: Limits
) -> tuple[list[ClipFile], list[int]]:
    """The clips, and the numbers of those that do not show from the first picture on what they should."""
    clips, unclean = [], []
    total = plan.probe.duration_seconds
    for number, (piece, path) in enumerate(zip(pieces, paths, strict=True)):
        start = (piece.start - scan.first) * scan.unit
        end = (piece.end - scan.first) * scan.unit if number + 1 < len(pieces) else total
        clips.append(ClipFile(str(path), container, start, end - start, piece.num_frames, path.stat().st_size))
        expected = np.sort(scan.pts[piece.members])
        expected = (expected[(expected >= piece.start) & (expected < piece.end)] - piece.start) * scan.unit
        try:
            found = probe(path, limits=limits)
        except DataError:
            unclean.append(number)
            continue
        near = _TIME_TOLERANCE_SECONDS if container in ("mp4", "mov") else _MATROSKA_TOLERANCE_SECONDS
        same = found.num_frames == piece.num_frames == len(expected) and np.allclose(
            found.pts_seconds, expected, rtol=0, atol=near
        )
        if not same or abs(found.start_seconds) > near:
            unclean.append(number)
    return clips, unclean


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
