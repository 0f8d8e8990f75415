"""A NumPy array of pictures becomes one video file.

The file is read picture by picture; nothing in it is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from ...core.errors import DataError, Reason
from .container import Limits, open_bytes
from .mjpeg import MjpegWriter, checked_rate, encode_jpeg

_MAGIC = b"\x93NUMPY"
_UNIT_UP_TO = 1.0
_BYTES_FROM = 16.0  # a picture of 0..255 whose brightest value is under this is black
_BYTES_UP_TO = 255.0


def pack_array(path: Path, output: Path, *, frame_rate: float, limits: Limits) -> None:
    """Write a ``.npy`` file of pictures as an MP4 with an MJPEG track (JPEG of quality 95, 4:4:4).

    Shapes: N x H x W x 3 (RGB), N x H x W x 1 and N x H x W (grey). Types: uint8, 0..255; or floating point of any
    width and byte order, whose range the largest value of the whole array tells: up to 1 it is 0..1, from 16 to 255 it
    is 0..255, rounded to the nearest; between 1 and 16 nobody can say, and it is refused. Picture n is shown at
    n / frame_rate. The same array gives the same bytes. One picture is held at a time, of an array in Fortran order a
    memory map.

    Args:
        path: the array.
        output: the file, ``.mp4``; removed again after an error.
        frame_rate: pictures per second.
        limits: largest picture, longest video.

    Raises:
        DataError: MISSING, UNREADABLE, EMPTY_FILE; BAD_FRAMES (no ``.npy`` file, objects, another type, rank or
            number of channels, an unclear or wrong range, NaN); TRUNCATED; NO_FRAMES; BAD_DIMENSIONS; TOO_LONG.
        OSError: ``output`` cannot be written.
        ValueError: the frame rate is out of range.
    """
    rate = checked_rate(frame_rate)
    file, size = open_bytes(path)
    with file:
        array = _header(file, size, path)
        count, height, width = array.shape[:3]
        limits.check_size(width, height)
        if (count - 1) / rate > limits.max_seconds:
            seconds = (count - 1) / float(rate)
            raise DataError(Reason.TOO_LONG, f"{seconds:.0f} seconds; the limit is {limits.max_seconds:.0f}")
        scale = _scale(array)
        writer = MjpegWriter(output, [Fraction(n) / rate for n in range(count)], rate, limits)
        try:
            for picture in array.pictures():
                writer.write(encode_jpeg(_as_rgb(picture, scale)), width, height)
            writer.finish()
        except BaseException:
            writer.abandon()
            output.unlink(missing_ok=True)
            raise


@dataclass(eq=False)
class _Array:
    """An array in a file that is open for reading; ``offset`` is where its values begin."""

    file: IO[bytes]
    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    fortran: bool

    def pictures(self) -> Iterator[np.ndarray]:
        """Each picture, [H, W] or [H, W, C]."""
        if self.fortran:
            yield from self._mapped()
            return
        shape = self.shape[1:]
        size = int(np.prod(shape)) * self.dtype.itemsize
        self.file.seek(self.offset)
        for number in range(self.shape[0]):
            data = bytearray(size)
            view, done = memoryview(data), 0
            while done < size:
                try:
                    part = self.file.read(size - done)
                except OSError as error:
                    raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
                if not part:
                    raise DataError(Reason.TRUNCATED, f"the file ends in picture {number} of {self.shape[0]}")
                view[done : done + len(part)] = part
                done += len(part)
            yield np.frombuffer(data, self.dtype).reshape(shape)

    def _mapped(self) -> Iterator[np.ndarray]:
        try:
            values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, MemoryError) as error:
            raise DataError(Reason.UNREADABLE, f"the array cannot be mapped into memory ({error})") from None
        for picture in values:
            yield np.ascontiguousarray(picture)


def _header(file: IO[bytes], size: int, path: Path) -> _Array:
    try:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DataError(Reason.BAD_FRAMES, "the first bytes are not those of a .npy file")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except DataError:
        raise
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
    except Exception as error:  # NumPy reads the header as Python source and raises what that raises
        raise DataError(Reason.DAMAGED, f"the header of the .npy file is unusable ({str(error)[:200]})") from None
    if dtype.hasobject:
        raise DataError(Reason.BAD_FRAMES, "an array of Python objects, which is not opened; store numbers")
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(Reason.BAD_FRAMES, f"values of type {dtype}; store pictures as uint8 or as floating point")
    _check_shape(shape)
    needed = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if needed > size:
        raise DataError(Reason.TRUNCATED, f"the array ends at byte {needed}, the file at byte {size}")
    return _Array(file, path, shape, dtype, file.tell(), fortran)


def _check_shape(shape: tuple[int, ...]) -> None:
    text = " x ".join(map(str, shape)) or "no dimension"
    if any(side < 0 for side in shape):
        raise DataError(Reason.DAMAGED, f"the header of the .npy file is unusable (an array of {text})")
    if len(shape) == 4 and shape[3] not in (1, 3):
        hint = "; transpose N x C x H x W" if shape[1] in (1, 3) else ""
        raise DataError(Reason.BAD_FRAMES, f"an array of {text}: the last dimension must be 1 or 3 channels{hint}")
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        raise DataError(
            Reason.BAD_FRAMES, f"an array of {text}: a single picture or a narrow video; store N x H x W x C"
        )
    if len(shape) not in (3, 4):
        raise DataError(Reason.BAD_FRAMES, f"an array of {text}: pictures are N x H x W x C or N x H x W")
    if not shape[0]:
        raise DataError(Reason.NO_FRAMES, f"an array of {text} holds no picture")


def _scale(array: _Array) -> float:
    """What values are multiplied by to lie in 0..255; reads all of a floating point array."""
    if array.dtype == np.uint8:
        return 1.0
    low, high = np.inf, -np.inf
    for number, picture in enumerate(array.pictures()):
        least, most = float(picture.min(initial=np.inf)), float(picture.max(initial=-np.inf))
        if not np.isfinite([least, most]).all():
            raise DataError(Reason.BAD_FRAMES, f"picture {number} holds values that are not finite numbers")
        low, high = min(low, least), max(high, most)
    if low < 0 or high > _BYTES_UP_TO:
        raise DataError(Reason.BAD_FRAMES, f"values from {low:g} to {high:g}; pictures are 0..1 or 0..255")
    if _UNIT_UP_TO < high < _BYTES_FROM:
        text = f"values up to {high:g} may be of 0..1 or of 0..255; bring them to 0..1, or store uint8"
        raise DataError(Reason.BAD_FRAMES, text)
    return 255.0 if high <= _UNIT_UP_TO else 1.0


def _as_rgb(picture: np.ndarray, scale: float) -> np.ndarray:
    if picture.dtype != np.uint8:
        picture = np.rint(picture.astype(np.float64) * scale).astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
