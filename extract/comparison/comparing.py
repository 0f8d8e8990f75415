"""Do DALI and PyAV give the same pictures, and the same features, of these very videos?

Of each clip that DALI takes, pictures spread over its length are decoded by both. A picture of DALI's is the right one
when none of PyAV's pictures around it is nearer to it than the one of the same number; this shows in content, whatever
the frame numbers say. Pixels differ a little, since the two convert colours and scale with their own arithmetic. How
much that matters the encoder tells, and what it makes of noise of one level in 255: some magnify even that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from ...core.errors import DataError, Reason, UsageError
from ...core.logs import one_line
from ...shards.video.decode import iter_frames
from ...shards.video.probe import DecodingPlan, make_plan
from ...shards.video.sampling import Samples
from ..decoding.dali_request import ClipRequest
from ..decoding.geometry import Geometry
from ..decoding.pool import DALI_CHILD
from ..decoding.route import ClipFacts, Hardware, why_not_dali
from ..decoding.tasks import Source
from ..decoding.worker import Worker
from ..encoders import Encoder

_AROUND = 2  # pictures before and after one that it is compared with
_SURELY = 0.1  # of 255: pictures nearer than this to one another cannot be told apart, nor do their features differ
_SECONDS = 600.0
_ARENA_BYTES = 64 << 20


@dataclass
class Row:
    """One clip.

    Attributes:
        name: of the file, or of the video and its clip's key.
        decoder: which takes it: "dali", "pyav", or "" when neither can.
        why: it is not DALI, or cannot be decoded.
        pictures: compared.
        wrong: of them, those that are not the ones asked for.
        mean_difference, max_difference: of pixels, of 255, over all pictures.
        cosine: the lowest between features of the same picture; 1.0 without an encoder.
        noise_cosine: the lowest between features of PyAV's pictures with and without noise of one level.
        differs: how, or "": a picture is another, or ``cosine`` is below both the least that was asked for and
            ``noise_cosine``.
    """

    name: str
    decoder: str
    why: str = ""
    pictures: int = 0
    wrong: int = 0
    mean_difference: float = 0.0
    max_difference: int = 0
    cosine: float = 1.0
    noise_cosine: float = 1.0
    differs: str = ""

    def __str__(self) -> str:
        if self.decoder != "dali":
            return one_line(f"{self.decoder or 'none':5} {self.name}: {self.why}")
        numbers = (
            f"{self.pictures} pictures, {self.wrong} wrong, pixels differ by {self.mean_difference:.2f} on average"
        )
        numbers += f", {self.max_difference} at most"
        if self.cosine < 1:
            numbers += f", cosine {self.cosine:.5f} (noise of one level: {self.noise_cosine:.5f})"
        verdict = f"   DIFFERS: {self.differs}" if self.differs else ""
        return one_line(f"dali  {self.name}: {numbers if self.pictures else 'takes it'}{verdict}")


class Comparison:
    """Both decoders, and the encoder if there is one. Use it in a ``with`` statement.

    Args:
        hardware: where DALI decodes.
        device_id: number of the GPU.
        geometry: size and crop of the pictures.
        encoder: of features to compare as well; it takes pictures of that geometry.
        frames: most pictures of a clip, spread over its length.
        least_cosine: see `Row.differs`.

    Raises:
        UsageError: the encoder takes clips of pictures.
    """

    def __init__(
        self,
        hardware: Hardware,
        geometry: Geometry,
        encoder: Encoder | None = None,
        *,
        device_id: int = 0,
        frames: int = 16,
        least_cosine: float = 0.999,
    ) -> None:
        if encoder is not None and encoder.window.frames > 1:
            raise UsageError("encoder: compare with one that takes single frames")
        self._hardware, self._device_id = hardware, device_id
        self._geometry, self._encoder = geometry, encoder
        self._frames, self._least_cosine = frames, least_cosine
        self._worker: Worker | None = None

    def compare(self, source: Source, *, decode: bool = True) -> Row:
        """A clip by both decoders, or only which of them takes it. Raises ReelkinError when DALI does not start."""
        try:
            data = _read(source)
            plan = make_plan(data)
            why = why_not_dali(ClipFacts.of(plan), self._hardware, self._geometry.scaling)
            row = Row(source.key, "pyav" if why else "dali", why)
            return self._both(row, source, data, plan) if decode and not why else row
        except DataError as error:
            return Row(source.key, "", f"{error.reason}: {error}")

    def _both(self, row: Row, source: Source, data: bytes, plan: DecodingPlan) -> Row:
        number = plan.probe.num_frames
        indices = np.unique(np.linspace(0, number - 1, self._frames).round().astype(np.int64))
        around = np.unique(np.clip(indices[:, None] + np.arange(-_AROUND, _AROUND + 1), 0, number - 1))
        theirs = dict(zip(around.tolist(), self._by_pyav(data, plan, around), strict=True))
        samples = Samples(indices, plan.probe.pts_seconds[indices])
        ours = self._by_dali(ClipRequest.of(source.path, source.offset, source.bytes, plan, samples, self._geometry))
        if isinstance(ours, str):
            return Row(row.name, "pyav", f"DALI failed: {ours}")
        same = np.stack([theirs[index] for index in indices.tolist()])
        row.pictures = len(indices)
        if ours.shape != same.shape:
            row.differs = f"pictures of {ours.shape[2]}x{ours.shape[1]}, not {same.shape[2]}x{same.shape[1]}"
            return row
        for index, picture in zip(indices.tolist(), ours, strict=True):
            off = {other: _difference(picture, theirs[other]) for other in theirs if abs(other - index) <= _AROUND}
            row.wrong += off[index] > min(off.values()) + _SURELY
        row.mean_difference = _difference(ours, same)
        row.max_difference = int(np.abs(ours.astype(np.int16) - same).max())
        if self._encoder is not None:
            noise = np.random.default_rng(0).integers(-1, 2, same.shape)
            noisy = np.clip(same + noise, 0, 255).astype(np.uint8)
            expected = self._encoder(same)
            row.cosine = _least_cosine(self._encoder(ours), expected)
            row.noise_cosine = _least_cosine(self._encoder(noisy), expected)
        row.differs = self._judge(row)
        return row

    def _judge(self, row: Row) -> str:
        if row.wrong:
            return f"{row.wrong} of {row.pictures} pictures are others"
        if not row.cosine >= min(self._least_cosine, row.noise_cosine):
            return f"the cosine is {row.cosine:.5f}, below {self._least_cosine} and that of noise"
        return ""

    def _by_pyav(self, data: bytes, plan: DecodingPlan, indices: np.ndarray) -> Iterator[np.ndarray]:
        samples = Samples(indices, plan.probe.pts_seconds[indices])
        for frame in iter_frames(data, plan=plan, samples=samples, short_side=self._geometry.short_side):
            yield self._geometry.cut(frame.picture)

    def _by_dali(self, request: ClipRequest) -> np.ndarray | str:
        """uint8 [T, H, W, 3], or why there are none."""
        worker = self._worker = self._worker or self._start()
        worker.send({"number": 0, "seconds": _SECONDS, "samples": [request.as_dict()]})
        pictures: list[np.ndarray] = []
        failed = ""
        while (message := worker.receive()) is not None:
            if "chunk" in message:
                pictures.append(worker.pictures(message["chunk"]).copy())
                worker.arena.give_back()
            elif "end" in message:
                return failed or np.concatenate(pictures)
            elif "whole" not in message:
                failed = next(str(message[key]) for key in ("failed", "detail", "failure", "fault") if key in message)
                if "failed" not in message:
                    return failed
        why = worker.why_gone()
        self.close()
        return str(why)

    def _start(self) -> Worker:
        settings = {
            "device": self._hardware.device,
            "device_id": self._device_id,
            "threads": 1,
            "budget": asdict(self._hardware.budget),
        }
        worker = Worker(DALI_CHILD, settings, _ARENA_BYTES)
        if not (worker.receive() or {}).get("ready"):
            worker.check_start(ended=True)
        worker.ready = True
        return worker

    def close(self) -> None:
        """End DALI's process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the rows of two matrices, [N, D]; nan when one is not finite or zero."""
    with np.errstate(all="ignore"):
        return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def _read(source: Source) -> bytes:
    try:
        with open(source.path, "rb") as file:
            file.seek(source.offset)
            return file.read(-1 if source.bytes is None else source.bytes)
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
