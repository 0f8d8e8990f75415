"""The times of a video's packets in the order in which they are stored, and where a cut among them loses nothing."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from ...core.errors import DataError, Reason
from .container import describe, open_container, video_stream
from .probe import DecodingPlan

_MOST_LEADING = 64  # pictures between a keyframe and the one shown before it; more is a jump of the clock
_TIME_TOLERANCE_SECONDS = 1e-6


@dataclass(eq=False)
class PacketTimes:
    """The packets of the stream, in decoding order; those that nobody can decode or show are left out.

    Attributes:
        pts: int64 [N], time base ``unit``.
        shown: bool [N], False for packets outside of the source's edit list.
        keyframes: bool [N].
        position: int64 [N], ascending, number of the packet among all of the stream that hold bytes.
        first, end: time of the first shown picture; end of the last one.
    """

    pts: np.ndarray
    shown: np.ndarray
    keyframes: np.ndarray
    position: np.ndarray
    unit: float
    first: int
    end: int

    def cuts(self, *, leading_allowed: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where the video can be cut.

        Args:
            leading_allowed: whether the clip before can take the pictures that are shown before the keyframe.

        Returns:
            int64 [K], ascending, keyframes as indices into the packets; bool [K], True for those without such pictures.
        """
        keys = np.flatnonzero(self.keyframes & self.shown)
        keys = keys[keys > 0]
        times = self.pts[keys]
        earlier = np.maximum.accumulate(self.pts)[keys - 1]  # latest time of the packets before
        later = np.minimum.accumulate(np.append(self.pts, np.iinfo(np.int64).max)[::-1])[::-1]  # earliest from here on
        clean = later[keys + 1] > times
        following = np.append(keys[1:], len(self.pts))
        usable = (earlier < times) & (later[following] > times)  # or the clock jumps back
        for at in np.flatnonzero(usable & ~clean):
            usable[at] = leading_allowed and self._leads(int(keys[at]), int(following[at]))
        return keys[usable], clean[usable]

    def _leads(self, key: int, following: int) -> bool:
        """Whether the packets before the next keyframe are first shown before, then after this one."""
        group = self.pts[key + 1 : following] - self.pts[key]
        # In MPEG program streams a keyframe's time may be a guess, the same as that of another picture.
        return bool((group != 0).all() and (group[_MOST_LEADING:] > 0).all())

    def leading(self, key: int) -> np.ndarray:
        """int64 [L]: packets behind a keyframe that are shown before it."""
        near = self.pts[key + 1 : key + 1 + _MOST_LEADING]
        return key + 1 + np.flatnonzero(near < self.pts[key])


def read_packet_times(source: Path, plan: DecodingPlan) -> PacketTimes | None:
    """Read the packets' times; None when they do not allow a cut without loss."""
    pts, position = array("q"), array("q")
    shown, keyframes = bytearray(), bytearray()
    with open_container(source) as container:
        stream = video_stream(container)
        reordered = bool(stream.codec_context.has_b_frames)
        if plan.ordinal and (reordered or stream.codec_context.codec.canonical_name in ("h264", "hevc")):
            return None
        for number, packet in enumerate(packets_of(container, stream)):
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or _changes_parameters(packet, stream):
                return None
            if not position and not packet.is_keyframe:
                continue  # a recording that starts in the middle
            pts.append(time)
            position.append(number)
            shown.append(not packet.is_discard)
            keyframes.append(packet.is_keyframe)
        unit = float(stream.time_base or 0)
    times, visible = np.asarray(pts, np.int64), np.frombuffer(bytes(shown), np.bool_)
    first = int(plan.pts[0])
    decodable = ~visible | (times >= first)
    scan = PacketTimes(
        times[decodable],
        visible[decodable],
        np.frombuffer(bytes(keyframes), np.bool_)[decodable],
        np.asarray(position, np.int64)[decodable],
        unit,
        first,
        first,
    )
    return scan if _agrees(scan, plan) else None


def _agrees(scan: PacketTimes, plan: DecodingPlan) -> bool:
    """Whether the shown packets are the plan's, and hidden ones lie before the first or behind the last."""
    times = np.sort(scan.pts[scan.shown])
    if not len(times) or times[0] != scan.first or scan.unit <= 0:
        return False
    seconds = (times - scan.first) * scan.unit
    if len(times) != plan.probe.num_frames or not np.allclose(
        seconds, plan.probe.pts_seconds, rtol=0, atol=_TIME_TOLERANCE_SECONDS
    ):
        return False
    scan.end = scan.first + max(round(plan.probe.duration_seconds / scan.unit), int(times[-1]) - scan.first + 1)
    hidden = scan.pts[~scan.shown]
    return bool(((hidden < scan.first) | (hidden > times[-1])).all())


def packets_of(container: av.container.InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets that hold bytes; what cannot be read is a DataError."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            raise DataError(Reason.DAMAGED, f"a packet cannot be read ({describe(error)})") from None
        except OSError as error:
            raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
        if packet is None:
            return
        if packet.size:
            yield packet


def _changes_parameters(packet: Packet, stream: VideoStream) -> bool:
    if not packet.has_sidedata("new_extradata"):
        return False
    return bytes(packet.get_sidedata("new_extradata")) != bytes(stream.codec_context.extradata or b"")
