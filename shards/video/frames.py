"""A folder of images becomes one video file."""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import DataError, Reason
from .container import Limits
from .frame_names import FrameNames, frame_times, is_image
from .images import read_image
from .mjpeg import MjpegWriter, checked_rate


def pack_frames(folder: Path, output: Path, *, frame_rate: float, names: FrameNames, limits: Limits) -> None:
    """Write the images of a folder as an MP4 with an MJPEG track.

    Images are JPEG, PNG, PPM, PGM, BMP, TIFF and WebP by extension in any case; hidden files, optical flow
    (``flow_x_00001.jpg``) and other files do not count. Usual JPEG images become packets byte for byte, others are
    encoded (see `images.read_image`). Order and times come from the names (see `frame_names.frame_times`), never from
    the order of the alphabet. All images have the size of the first, as displayed. The same images give the same
    bytes. One image is held at a time.

    Args:
        folder: the images lie directly in it.
        output: the file, ``.mp4``; removed again after an error.
        frame_rate: pictures per second of numbered images.
        names: how the images are named.
        limits: largest picture, longest video.

    Raises:
        DataError: the folder or an image cannot be used; the message names the file.
        OSError: ``output`` cannot be written.
        ValueError: the frame rate is out of range.
    """
    rate = checked_rate(frame_rate)
    order = frame_times(_images_in(folder), names, rate)
    writer = MjpegWriter(output, [time for _, time in order], rate, limits)
    try:
        first: tuple[int, int] | None = None
        for name, _ in order:
            image = read_image(folder / name, limits)
            size = (image.width, image.height)
            first = first or size
            if size != first:
                raise DataError(
                    Reason.BAD_DIMENSIONS,
                    f"{name!r}: {size[0]}x{size[1]} pixels, but {order[0][0]!r} has {first[0]}x{first[1]}; "
                    "the pictures of a video have one size",
                )
            writer.write(image.data, *size)
        writer.finish()
    except BaseException:
        writer.abandon()
        output.unlink(missing_ok=True)
        raise


def _images_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if is_image(entry.name) and not entry.is_dir()]
    except FileNotFoundError:
        raise DataError(Reason.MISSING, "no such folder") from None
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
