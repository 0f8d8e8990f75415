"""DALI as a decoder of chosen pictures: on a GPU, and without one for the codecs that DALI decodes on a CPU.

One graph does both: bytes -> ``fn.decoders.video`` -> ``fn.resize`` -> colours -> pictures. Seen with DALI 2.4:

* The CPU variant decodes VP8, VP9 and MJPEG, and seeks in none: it decodes from the first picture to the last one
  asked for, with an index or without (0.47 and 0.49 s for picture 3000 of a clip). The GPU variant goes by the index.
* It takes every video for BT.601; limited and full range it keeps apart. What is BT.709 or BT.2020 is put right here,
  by a matrix that stands behind the resize, where it costs least. For BT.601 the matrix is exactly the identity.
* A picture asked for twice is decoded twice, from the beginning: so each is asked for once.
* A batch with a bad sample fails as a whole, and its pipeline must be built anew, which takes 3 to 8 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...core.errors import ReelkinError

Device = Literal["cpu", "gpu"]

_EBML = b"\x1aE\xdf\xa3"
_BOXES = (b"ftyp", b"moov", b"mdat", b"styp", b"wide", b"free", b"skip")
_UNSPECIFIED, _BT601 = 2, 6
# Weights of red and blue in luma (ITU-T H.273, table 4), by number of the matrix.
_LUMA = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    _BT601: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}
MATRICES = frozenset({_UNSPECIFIED, *_LUMA})
"""Colour matrices that are understood here; what does not say is BT.601, as it is for PyAV."""


class DaliError(ReelkinError):
    """A batch could not be decoded; the message is DALI's, without its traceback."""


@dataclass(frozen=True, eq=False)
class DaliSample:
    """A clip, and the pictures wanted of it.

    Attributes:
        data: uint8 [bytes], the file; any readable memory.
        indices: int64 [T], T >= 1, numbers of pictures in the order of display, from 0; repeats allowed.
        stored_width, stored_height: of a picture as it is stored, before rotation.
        width, height: what it is scaled to, without rotation.
        colour_matrix: see `DecodingPlan.colour_matrix`.
    """

    data: np.ndarray
    indices: np.ndarray
    stored_width: int
    stored_height: int
    width: int
    height: int
    colour_matrix: int = _UNSPECIFIED


class DaliDecoder:
    """A DALI pipeline that is kept, and built anew after an error.

    Args:
        device: "cpu", or "gpu" for the hardware decoder of a GPU.
        device_id: number of the GPU among those that are visible.
        threads: of DALI; samples of a batch are decoded side by side.
        most_samples: in a batch.

    Raises:
        ReelkinError: DALI is not installed, or there is no GPU that it can use.
    """

    def __init__(self, device: Device = "cpu", *, device_id: int = 0, threads: int = 1, most_samples: int = 16) -> None:
        self.device = device
        self.most_samples = most_samples
        self._settings = {
            "batch_size": most_samples,
            "num_threads": threads,
            "device_id": device_id if device == "gpu" else None,
            "prefetch_queue_depth": 1,
        }
        self._pipeline: Any = self._built()

    def _built(self) -> Any:
        try:
            return _build(self.device, self._settings)
        except RuntimeError as error:
            device_id = self._settings["device_id"]
            raise ReelkinError(
                f"DALI cannot use GPU {device_id} ({_why(error)}); check nvidia-smi, and that the driver knows "
                "DALI's CUDA version, or decode without DALI"
            ) from error

    def decode(self, batch: Sequence[DaliSample]) -> list[np.ndarray]:
        """The pictures of a batch of clips.

        Memory: DALI holds all distinct pictures of a batch at once in their stored size, 3 bytes a pixel, and keeps the
        most that it ever needed.

        Args:
            batch: 1 to ``most_samples`` samples of any sizes, codecs and numbers of pictures.

        Returns:
            uint8 [T, height, width, 3] RGB for each sample, not turned.

        Raises:
            DaliError: one of the samples is bad; which one, DALI does not say. The decoder can be used on.
            ReelkinError: DALI cannot start again after an error; a new process may help.
            ValueError: an empty batch, too many samples, or a sample without pictures.
        """
        if not 1 <= len(batch) <= self.most_samples or not all(len(sample.indices) for sample in batch):
            raise ValueError(f"a batch of {len(batch)}; it takes 1 to {self.most_samples} samples, each with pictures")
        if not all(_holds_its_own_pictures(sample.data) for sample in batch):
            raise DaliError("it begins neither as MP4 nor as Matroska")
        wanted = [np.unique(sample.indices, return_inverse=True) for sample in batch]
        fed = {
            "data": [sample.data for sample in batch],
            "indices": [indices.astype(np.int32) for indices, _ in wanted],
            "size": [np.asarray([sample.height, sample.width], np.float32) for sample in batch],
            "colours": [colour_correction(sample.colour_matrix) for sample in batch],
        }
        if self._pipeline is None:
            self._pipeline = self._built()
        try:
            for name, values in fed.items():
                self._pipeline.feed_input(name, values)
            frames, shapes = self._pipeline.run()
            frames = frames.as_cpu() if self.device == "gpu" else frames
        except RuntimeError as error:
            self._pipeline = None
            _release()
            raise DaliError(_why(error)) from None
        pictures = []
        for number, (sample, (indices, positions)) in enumerate(zip(batch, wanted, strict=True)):
            found, stored = np.asarray(frames.at(number)), tuple(int(n) for n in np.asarray(shapes.at(number)))
            if stored != (len(indices), sample.stored_height, sample.stored_width, 3):
                raise DaliError(
                    f"{stored[0]} pictures of {stored[2]}x{stored[1]} came, where {len(indices)} of "
                    f"{sample.stored_width}x{sample.stored_height} were asked for"
                )
            # DALI writes over its memory in the next run, so they are copied.
            pictures.append(found[positions] if len(positions) != len(indices) else found.copy())
        return pictures


def colour_correction(matrix: int) -> np.ndarray:
    """float32 [3, 3]: RGB that was made of a video's colours as if they were BT.601 -> the RGB they stand for.

    Raises:
        KeyError: none of `MATRICES`.
    """
    if matrix in (_UNSPECIFIED, _BT601, 5):
        return np.eye(3, dtype=np.float32)
    return (_to_rgb(matrix) @ np.linalg.inv(_to_rgb(_BT601))).astype(np.float32)


def _to_rgb(matrix: int) -> np.ndarray:
    """(Y, Cb, Cr) -> RGB, full range."""
    red, blue = _LUMA[matrix]
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 - 2 * red],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 - 2 * blue, 0],
        ]
    )


def _build(device: Device, settings: dict[str, Any]) -> Any:
    dali, fn = _import_dali()
    pipeline = dali.Pipeline(**settings)
    with pipeline:
        # no_copy: the arrays live until the pictures have been copied out
        data = fn.external_source(name="data", dtype=dali.types.UINT8, ndim=1, no_copy=True)
        indices = fn.external_source(name="indices", dtype=dali.types.INT32, ndim=1, no_copy=True)
        size = fn.external_source(name="size", dtype=dali.types.FLOAT, ndim=1, no_copy=True)
        colours = fn.external_source(name="colours", dtype=dali.types.FLOAT, ndim=2, no_copy=True)
        decoded = fn.decoders.video(
            data,
            device="mixed" if device == "gpu" else "cpu",
            frames=indices,
            pad_mode="none",  # a number that does not exist is an error, where other modes give a black picture
            build_index=True,
            affine=False,  # several processes would be pinned to the same cores
        )
        # What comes nearest to PyAV's averaging when shrinking, and its bicubic when enlarging: four real clips shrunk
        # to 256 differ by 0.15 to 0.20 of 255 on average, with the usual triangle by 0.17 to 0.33.
        scaled = fn.resize(
            decoded,
            size=size,
            antialias=True,
            min_filter=dali.types.INTERP_GAUSSIAN,
            mag_filter=dali.types.INTERP_CUBIC,
        )
        pictures = fn.coord_transform(scaled, M=colours, dtype=dali.types.UINT8)
        pipeline.set_outputs(pictures, decoded.shape())
    pipeline.build()
    return pipeline


def _holds_its_own_pictures(data: np.ndarray) -> bool:
    """Whether the bytes begin as MP4 or Matroska. DALI's demuxer guesses among others too, such as lists of files, and
    would open the files that they name."""
    head = data[:8].tobytes()
    return head.startswith(_EBML) or head[4:] in _BOXES


def _import_dali() -> tuple[Any, Any]:
    try:
        from nvidia import dali
        from nvidia.dali import fn
    except (ImportError, OSError) as error:
        raise ReelkinError(
            f"DALI cannot be imported ({error}); install it with: pip install 'reelkin[dali]' ('reelkin[gpu]' brings "
            "all that a GPU needs), or decode without it"
        ) from error
    return dali, fn


def _release() -> None:
    """Give memory that DALI keeps for later back to the device: a batch may have failed for want of it."""
    _import_dali()[0].backend.ReleaseUnusedMemory()


def _why(error: RuntimeError) -> str:
    """What DALI complains about, in one line: behind "encountered:", before where in its source it happened."""
    text = str(error).rpartition("encountered:")[2].partition("C++ context")[0]
    text = text.partition("Current pipeline object")[0].partition("Stacktrace")[0].strip()
    if text.startswith("Assert on ") and '" failed: ' in text:
        text = text.partition('" failed: ')[2]
    return " ".join(text.split()) or "DALI says no more"
