"""From clips to features: decoded pictures are gathered into batches across clips, encoded, and given back per clip."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..core.cores import share_of_cores, use_share_of_cores
from ..core.errors import DataError, Reason, ReelkinError, UsageError
from ..shards.video.sampling import Sampling
from .batches import Batch, Batcher, Windows
from .decoding.pool import DaliSettings, DecodePool, PoolSettings
from .decoding.tasks import Again, Chunk, End, Pick, Source
from .encoders import Encoder
from .pca import PCA
from .store import to_float16

_CPU_BATCH, _GPU_BATCH = 16, 64
_NICE = 5  # decoding fills the gaps that the encoder leaves; both together keep all cores busy

COMPARED = ("name", "weights_sha256", "preprocessing", "dim", "stages", "descriptor", "window", "inflate")
"""The keys of an encoder's info that must agree where features meet (a PCA, a query); not every encoder has all."""


@dataclass(eq=False)
class Described:
    """A clip's features, or why it has none.

    Attributes:
        source: the clip.
        features: float32 [T, D]; float16 when they are for a store.
        times: float64 [T] seconds from the clip's first picture.
        decoder: what made its pictures ("pyav", "dali").
        error: set when the clip is damaged; then features and times hold nothing.
    """

    source: Source
    features: np.ndarray
    times: np.ndarray
    decoder: str = ""
    error: DataError | None = None


@dataclass(eq=False)
class _Attempt:
    """What came of decoding a clip once; nothing of it is kept when the clip is decoded again."""

    windows: Windows
    times: list[float] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    encoded: int = 0
    unusable: int = 0


@dataclass(eq=False)
class _Open:
    source: Source
    attempt: _Attempt
    end: End | None = None

    @property
    def complete(self) -> bool:
        return self.end is not None and self.attempt.encoded == len(self.attempt.times)


class Describer:
    """Encoder, optional PCA, sampling and decoders in one: what turns videos into the features of a store.

    Use it in a ``with`` statement, or `close` it: it keeps child processes for decoding.

    Args:
        encoder: from `encoders.build_encoder`.
        pca: applied after it, or None.
        sampling: which pictures.
        batch_frames: pictures per forward pass; those of several clips share a batch when they are equally large. 0:
            16 for each core on a CPU, 64 on a GPU.
        workers: child processes that decode; 0 takes one for each core of this rank.
        timeout_seconds, dali: see `pool.PoolSettings`.

    Attributes:
        decoder: what decodes: "pyav", or "dali", which leaves to PyAV what it cannot take.
        frames_encoded: pictures, or windows of pictures, that were encoded so far.

    Raises:
        UsageError: the PCA was fitted on features of another encoder, or a number is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        pca: PCA | None = None,
        *,
        sampling: Sampling | None = None,
        batch_frames: int = 0,
        workers: int = 0,
        timeout_seconds: float = 120.0,
        dali: DaliSettings | None = None,
    ) -> None:
        if batch_frames < 0 or workers < 0:
            raise UsageError(f"--batch-frames {batch_frames}, --decode-workers {workers}: give 0 (by default) or more")
        self.encoder = encoder
        self.pca = check_pca(pca, encoder).to(encoder.device) if pca else None
        self.sampling = sampling or Sampling()
        self.decoder = "dali" if dali else "pyav"
        on_gpu = encoder.device.type == "cuda"
        self.batch_frames = batch_frames or (_GPU_BATCH if on_gpu else _CPU_BATCH)
        self.frames_encoded = 0
        self._half = False
        self.pool = DecodePool(
            PoolSettings(
                self.sampling,
                encoder.preprocessing.geometry,
                workers or share_of_cores(),
                timeout_seconds=timeout_seconds,
                nice=_NICE,
                dali=dali,
            )
        )
        self._batcher = self._new_batcher()
        # On a CPU each core encodes a batch of its own: threads that share a batch wait for one another, most of all
        # where decoding takes their time. A GPU computes by itself: a batch is taken while the next is under way.
        self._encoding = ThreadPoolExecutor(1 if on_gpu else share_of_cores(), "reelkin-encode")
        self._most_flights = 1 if on_gpu else share_of_cores() + 1
        self._takes_done = not on_gpu  # on a GPU, sent off is not done, and taking would wait for it
        self._free = threading.Lock()  # one call at a time: batches hold clips of all that is under way
        self._flights: deque[tuple[Batch[_Attempt], Future[Tensor]]] = deque()

    def _new_batcher(self) -> Batcher[_Attempt]:
        size = max(1, self.batch_frames // self.encoder.window.frames)
        return Batcher(size, pinned=self.encoder.device.type == "cuda")

    @property
    def dim(self) -> int:
        """Length of a feature."""
        return self.pca.dim if self.pca else self.encoder.dim

    def describe(
        self, sources: Iterable[Source], pick: Pick | None = None, *, half: bool = False
    ) -> Iterator[Described]:
        """Features of clips, in the order of ``sources``, as soon as each is complete.

        A damaged clip ends as a `Described` with ``error``; the pictures before its damage are dropped, and its
        neighbours come out as without it. Batches depend on the order of the clips only, never on timing, and hold
        clips of one group: the same group gives the same bits, whatever comes before and after it.

        Args:
            sources: see `pool.DecodePool.decode`.
            pick: keep only some pictures of each clip.
            half: give float16, as a store holds them; half the memory for a long video. A clip whose features do not
                fit ends with an error.

        Raises:
            RuntimeError: an earlier call is not at its end.
            ReelkinError: as `pool.DecodePool.decode`; the encoder fails.
        """
        if not self._free.acquire(blocking=False):
            raise RuntimeError("clips are being described: take all that comes of the earlier call, or close it")
        self._half = half
        try:
            yield from self._described(sources, pick)
        finally:
            self._free.release()

    def _described(self, sources: Iterable[Source], pick: Pick | None) -> Iterator[Described]:
        clips: deque[_Open] = deque()
        window = self.encoder.window
        self._batcher, self._flights = self._new_batcher(), deque()  # nothing is left of a call that was given up
        for source, item in self.pool.decode(sources, pick):
            if not clips or clips[-1].end is not None:
                if clips and clips[-1].source.group != source.group:
                    self._encode(self._batcher.flush())
                clips.append(_Open(source, _Attempt(Windows(window.frames, window.step))))
            clip = clips[-1]
            if isinstance(item, Chunk):
                self._take(clip.attempt, item)
            elif isinstance(item, Again):
                clip.attempt = _Attempt(Windows(window.frames, window.step))
            else:
                clip.end = item
                self._finish(clip.attempt)
            while self._flights and self._takes_done and self._flights[0][1].done():
                self._land()
            while clips and clips[0].complete:
                yield self._close(clips.popleft())
        self._encode(self._batcher.flush())
        while self._flights:
            self._land()
        use_share_of_cores()  # MKL has one number for all threads
        for clip in clips:
            yield self._close(clip)

    def _take(self, attempt: _Attempt, chunk: Chunk) -> None:
        if self.encoder.window.frames == 1 and self.encoder.window.step == 1:
            attempt.times.extend(chunk.times.tolist())
            self._encode(self._batcher.add(attempt, chunk.frames))
        else:
            self._add_windows(attempt, attempt.windows.add(chunk.frames, chunk.times))

    def _finish(self, attempt: _Attempt) -> None:
        self._add_windows(attempt, attempt.windows.finish())

    def _add_windows(self, attempt: _Attempt, windows: Iterator[tuple[np.ndarray, float]]) -> None:
        for pictures, time in windows:
            attempt.times.append(time)
            self._encode(self._batcher.add(attempt, pictures[None]))

    def _encode(self, batches: Iterator[Batch[_Attempt]]) -> None:
        for batch in batches:
            self._flights.append((batch, self._encoding.submit(self._features, batch.inputs)))
            if len(self._flights) > self._most_flights:
                self._land()

    def _features(self, inputs: np.ndarray) -> Tensor:
        """In a thread of its own."""
        if self.encoder.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread
        try:
            features = self.encoder.encode(inputs)
            return self.pca.apply(features) if self.pca else features
        except torch.OutOfMemoryError as error:
            raise ReelkinError(
                f"the device has not enough memory for {len(inputs)} inputs of {inputs.shape[1:]}: give a smaller "
                f"--batch-frames than {self.batch_frames}"
            ) from error
        except (RuntimeError, torch.jit.Error) as error:
            info, lines = self.encoder.info, str(error).strip().splitlines()
            raise ReelkinError(
                f"the encoder {info['name']} ({info['weights']}) fails at {len(inputs)} inputs of {inputs.shape[1:]}: "
                f"{lines[-1].strip() if lines else type(error).__name__}; with REELKIN_TRACEBACK=1 in the environment "
                "the command shows where"
            ) from error

    def _land(self) -> None:
        """Take the features of the batch that was sent off first."""
        batch, future = self._flights.popleft()
        rows = future.result().cpu().numpy()
        self._batcher.reuse(batch)
        self.frames_encoded += len(rows)
        first = 0
        for attempt, count in batch.parts:
            part = rows[first : first + count]
            attempt.features.append(self._stored(attempt, part) if self._half else part)
            attempt.encoded += count
            first += count

    def _stored(self, attempt: _Attempt, rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = rows.astype(np.float16)
        attempt.unusable += int((~np.isfinite(stored)).any(axis=1).sum())
        return stored

    def _close(self, clip: _Open) -> Described:
        attempt, end = clip.attempt, clip.end or End()
        error = end.error
        if error is None and attempt.unusable:
            text = f"the features of {attempt.unusable} of {attempt.encoded} frames are not finite, or over 65504"
            error = DataError(Reason.ENCODER_FAILED, text)
        if error is not None or not attempt.features:
            return Described(clip.source, np.zeros((0, self.dim), np.float32), np.zeros(0), end.decoder, error)
        return Described(clip.source, np.concatenate(attempt.features), np.asarray(attempt.times), end.decoder)

    def close(self) -> None:
        """End the child processes and the threads."""
        self.pool.close()
        self._encoding.shutdown(cancel_futures=True)

    def __enter__(self) -> Describer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_pca(pca: PCA, encoder: Encoder) -> PCA:
    """Raise UsageError unless ``pca`` fits the encoder's features; returns it."""
    fitted = pca.info.get("encoder")
    if fitted:
        for key in COMPARED:
            if fitted.get(key) != encoder.info.get(key):
                raise UsageError(
                    f"--pca was fitted on another encoder's features: {key} was {fitted.get(key)!r}, is "
                    f"{encoder.info.get(key)!r} now; use the same encoder, or fit another PCA with extract/fit_pca.py"
                )
    if pca.input_dim != encoder.dim:
        raise UsageError(f"--pca takes {pca.input_dim} dimensions, the encoder gives {encoder.dim}; fit another one")
    return pca


def join_clips(parts: Sequence[Described], starts: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Put the clips of one video together.

    Args:
        parts: its clips in order of time.
        starts: where each begins in the video, seconds.

    Returns:
        features float16 [T, D] and times float64 [T], seconds from the video's first picture, not falling.

    Raises:
        DataError: a clip is damaged, or its features do not fit float16; NO_FRAMES when there is not one.
    """
    for part in parts:
        if part.error is not None:
            raise part.error
    if not sum(len(part.features) for part in parts):
        raise DataError(Reason.NO_FRAMES, "none of its pictures was sampled")
    features = to_float16(np.concatenate([part.features for part in parts]))
    seconds = np.concatenate([part.times + start for part, start in zip(parts, starts, strict=True)])
    # Clips are cut at keyframes; a container's rounding may let one begin a moment before the one before it ended.
    return features, np.maximum.accumulate(seconds)
