"""One image of a frame folder, as a JPEG that every video decoder takes.

Most frames are JPEG images of the usual kind: their bytes are taken as they are, after a look at their headers and
their end. Everything else is decoded and encoded anew.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...core.errors import DataError, Reason
from .container import Limits, open_bytes
from .mjpeg import encode_jpeg

_MOST_BYTES = 1 << 29
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_ORIENTATION = 0x0112  # EXIF tag
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; FFmpeg decodes no arithmetic coding
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_USUAL_SAMPLING = frozenset([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)])
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a length


@dataclass(frozen=True, slots=True)
class JpegImage:
    """A JPEG and its size in pixels, as displayed."""

    data: bytes
    width: int
    height: int


def read_image(path: Path, limits: Limits) -> JpegImage:
    """Read an image as a JPEG.

    A JPEG that FFmpeg decodes (Huffman coded, 8 bits, grey or YCbCr with usual sampling, upright) comes back byte for
    byte. Anything else becomes a new JPEG (see `mjpeg.encode_jpeg`): turned and mirrored as its EXIF orientation says,
    since decoders of video do not agree on that; transparency is dropped; 16 bits a channel become 8; of an image of
    several pages the first is taken.

    Raises:
        DataError: with the file's name; MISSING, UNREADABLE, EMPTY_FILE, TOO_LARGE, BAD_FRAMES (no image),
            TRUNCATED, DAMAGED, BAD_DIMENSIONS. The pixels of a JPEG that is taken as it is are not looked at.
    """
    try:
        data = _read(path)
        if data[:2] == b"\xff\xd8":
            image = _usable_jpeg(data, limits)
            if image is not None:
                return image
        picture = _decoded(data, limits)
        return JpegImage(encode_jpeg(picture), picture.shape[1], picture.shape[0])
    except DataError as error:
        raise DataError(error.reason, f"{path.name!r}: {error}") from None


def _read(path: Path) -> bytes:
    file, size = open_bytes(path)
    with file:
        if size > _MOST_BYTES:
            raise DataError(Reason.TOO_LARGE, f"an image of {size} bytes; the limit is {_MOST_BYTES}")
        try:
            parts = []
            while part := file.read(size + 1):
                parts.append(part)
            return b"".join(parts)
        except OSError as error:
            raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None


def _usable_jpeg(data: bytes, limits: Limits) -> JpegImage | None:
    """The JPEG as it is when FFmpeg decodes its kind, else None; from its headers (ITU-T T.81, annex B)."""
    position, frame, kind, turned, rgb = 2, b"", 0, False, False
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 4 > len(data):
            raise DataError(Reason.TRUNCATED, f"the JPEG ends at byte {len(data)}, inside its headers")
        if data[position] != 0xFF:
            raise DataError(Reason.DAMAGED, f"no JPEG marker at byte {position}")
        marker = data[position + 1]
        if marker in _ALONE:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : position + 2 + length]
        if marker in _FRAMES:
            frame, kind = content, marker
        elif marker == 0xE1 and content.startswith(b"Exif\0"):
            turned = turned or _exif_orientation(data) not in (0, 1)
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            rgb = content[11] == 0
        elif marker in (0xDA, 0xD9):
            break
        position += 2 + max(2, length)
    if marker == 0xD9 or len(frame) < 6:
        raise DataError(Reason.DAMAGED, "a JPEG without a picture")
    precision, height, width, components = struct.unpack(">BHHB", frame[:6])
    limits.check_size(width, height or 1)  # 0: the height follows the first scan, which Pillow refuses
    if data.find(b"\xff\xd9", position) < 0:
        raise DataError(Reason.TRUNCATED, f"the JPEG ends at byte {len(data)}, before its end marker")
    parts = [frame[6 + 3 * n : 9 + 3 * n] for n in range(components)]
    if kind not in _HUFFMAN_FRAMES or precision != 8 or not height or len(parts[-1:]) == 0 or len(parts[-1]) < 3:
        return None
    if components == 3:
        sampling = [(part[1] >> 4, part[1] & 15) for part in parts]
        usual = sampling[0] in _USUAL_SAMPLING and sampling[1:] == [(1, 1), (1, 1)]
        rgb = rgb or [part[0] for part in parts] == [82, 71, 66]
        if not usual or rgb:
            return None
    elif components != 1:
        return None
    return None if turned else JpegImage(data, width, height)


def _exif_orientation(data: bytes) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # no EXIF that anybody can read
        return 1


def _decoded(data: bytes, limits: Limits) -> np.ndarray:
    """uint8 [H, W, 3], upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; a large picture is measured below
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                limits.check_size(*image.size)
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError(Reason.BAD_FRAMES, "not an image of a format that is read here") from None
    except Image.DecompressionBombError:
        raise DataError(Reason.BAD_DIMENSIONS, "the picture is over the limit of pixels") from None
    except MemoryError:
        raise DataError(Reason.DECODER_DIED, "the image asks for more memory than the limit") from None
    except Exception as error:  # Pillow's readers raise what happens to go wrong in them
        text = " ".join(str(error).split()) or type(error).__name__
        reason = Reason.TRUNCATED if "truncated" in text else Reason.DAMAGED
        raise DataError(reason, f"the image cannot be decoded ({text})") from None


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;"):
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
            raise DataError(Reason.DAMAGED, "whole numbers of more than 16 bits; store 8 or 16 bits a channel")
        grey = (values.astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DataError(Reason.DAMAGED, "floating point values, whose range is unknown; store 8 or 16 bits a channel")
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))
