"""A child process that decodes batches of clips with DALI. Started by the pool; not meant to be run by hand.

Settings: ``device`` ("cpu" or "gpu"), ``device_id``, ``threads`` (of DALI), and ``budget``, the values of a
`batching.Budget`. On a GPU set no limit on its memory (``memory_bytes`` 0): CUDA maps more addresses than it uses.

A request has ``samples``, a list of what `ClipRequest.as_dict` gives; they are divided into batches here, so it may
hold any number of clips. The answers: chunks with ``sample=n``, in the order of the clips; after the last chunk of a
clip ``sample=n, whole=True``; or at any time ``sample=n, failed=WHY`` when DALI cannot decode it: what came of that
clip before does not count, and the others are not harmed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from .batching import Budget, Need, Part, form_batches
from .child import Handle, Output, serve
from .dali_graph import DaliDecoder, DaliError, DaliSample
from .dali_request import ClipRequest

_LONGEST_COMPLAINT = 300
_LARGEST_FILE = 1 << 30  # it lies in memory as a whole, and DALI counts its bytes in 32 bits
_MOST_PARTS_WITHOUT_SEEKING = 4  # on a CPU each part of a clip is decoded from the clip's beginning
_NO_INDICES = np.zeros(0, np.int64)

_Decoded = list[tuple[Part, np.ndarray | Exception]]


def prepare(settings: dict[str, Any]) -> Handle:
    """Start DALI. Raises ReelkinError when it is not there."""
    budget = Budget(**settings["budget"])
    decoder = DaliDecoder(
        settings["device"],
        device_id=settings["device_id"],
        threads=settings["threads"],
        most_samples=budget.samples,
    )

    def handle(request: dict[str, Any], out: Output) -> None:
        _Request([ClipRequest.from_dict(values) for values in request["samples"]], decoder, out).answer(budget)

    return handle


class _Request:
    def __init__(self, clips: Sequence[ClipRequest], decoder: DaliDecoder, out: Output) -> None:
        self._clips = clips
        self._decoder = decoder
        self._out = out
        self._failed: set[int] = set()

    def answer(self, budget: Budget) -> None:
        batches = list(form_batches([self._need(number) for number in range(len(self._clips))], budget))
        left = [sum(part.clip == number for batch in batches for part in batch) for number in range(len(self._clips))]
        # At once: whoever takes the pictures waits for them, and no room would ever come free for those of later clips.
        for number, clip in enumerate(self._clips):
            if self._decoder.device == "cpu" and left[number] > _MOST_PARTS_WITHOUT_SEEKING:
                self._fail(number, f"its {len(clip.indices)} pictures do not fit into memory together")
            if not len(clip.indices) and number not in self._failed:
                self._out.say(sample=number, whole=True)
        # DALI decodes the next batch while the pictures of this one are copied out.
        with ThreadPoolExecutor(1, "reelkin-dali") as ahead:
            upcoming: Future[_Decoded] | None = None
            for batch in [*batches, None]:
                decoded = upcoming.result() if upcoming else []
                upcoming = ahead.submit(self._decode, batch) if batch else None
                for part, pictures in decoded:
                    left[part.clip] -= 1
                    self._send(part, pictures, not left[part.clip])

    def _need(self, number: int) -> Need:
        clip = self._clips[number]
        try:
            size = os.stat(clip.path).st_size - clip.offset if clip.bytes is None else clip.bytes
        except OSError as error:
            self._fail(number, f"the file cannot be read ({error.strerror or error})")
            return Need(_NO_INDICES, 0, 0)
        if size > _LARGEST_FILE:
            self._fail(number, f"a file of {size} bytes is too large for it")
            return Need(_NO_INDICES, 0, 0)
        return clip.need(size)

    def _fail(self, number: int, why: str) -> None:
        if number not in self._failed:
            self._failed.add(number)
            self._out.say(sample=number, failed=why)

    def _decode(self, batch: Sequence[Part]) -> _Decoded:
        """In the other thread. Parts of clips that have failed are left out."""
        results: _Decoded = []
        readable: list[tuple[Part, DaliSample]] = []
        for part in batch:
            if part.clip not in self._failed:
                try:
                    clip = self._clips[part.clip]
                    readable.append((part, clip.sample(clip.read(), part.first, part.last)))
                except OSError as error:
                    results.append((part, error))
        pictures = decode_all(self._decoder, [sample for _, sample in readable])
        results += zip((part for part, _ in readable), pictures, strict=True)
        return results

    def _send(self, part: Part, pictures: np.ndarray | Exception, last: bool) -> None:
        if isinstance(pictures, Exception):
            self._fail(part.clip, str(pictures))
        elif part.clip not in self._failed:
            clip = self._clips[part.clip]
            self._out.chunk(clip.shown(pictures), clip.times[part.first : part.last], sample=part.clip)
            if last:
                self._out.say(sample=part.clip, whole=True)


def decode_all(decoder: DaliDecoder, samples: Sequence[DaliSample]) -> list[np.ndarray | DaliError]:
    """The pictures of each sample, or why it has none: a batch that fails is halved until the bad ones stand alone."""
    if not samples:
        return []
    written = _written()
    try:
        return list(decoder.decode(samples))
    except DaliError as error:
        if len(samples) == 1:
            complaint = _complaint(written)
            return [DaliError(f"{error} ({complaint})" if complaint else str(error))]
    middle = len(samples) // 2
    return decode_all(decoder, samples[:middle]) + decode_all(decoder, samples[middle:])


def _written() -> int | None:
    """How far the file is written that is the standard error of a child; None when it is no file."""
    status = os.fstat(2)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _complaint(start: int | None) -> str:
    """The last line on the standard error since ``start``: DALI and FFmpeg say there what is wrong with a file."""
    if start is None:
        return ""
    lines = os.pread(2, 1 << 16, start).decode("utf-8", "replace").splitlines()
    text = lines[-1] if lines else ""
    return " ".join((text.rpartition("] ")[2] or text).split())[:_LONGEST_COMPLAINT]


if __name__ == "__main__":
    serve(prepare)
