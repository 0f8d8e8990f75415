"""From pictures to what an encoder takes: windows of pictures, gathered into batches across clips.

A frame encoder takes single pictures; a clip encoder takes windows of L pictures, one every S. A batch holds windows of
one group of clips and one picture size, in order, so that what is computed together depends on the clips alone and
never on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch

Owner = TypeVar("Owner")


@dataclass
class Windows:
    """Cuts the pictures of one clip into windows of ``frames`` pictures, beginning ``step`` apart.

    The last window ends with the clip: it overlaps more with the one before, or, in a clip shorter than a window,
    repeats the last picture. A window's time is the middle between its first and its last picture's.
    """

    frames: int
    step: int
    _pictures: deque[np.ndarray] = field(default_factory=deque)
    _times: deque[float] = field(default_factory=deque)
    _due: int = 0  # pictures to pass over before the next window may begin
    _since: int = 0  # pictures since the last window ended

    def add(self, pictures: np.ndarray, times: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        """Take uint8 [n, H, W, 3] and float64 [n]; yields ([L, H, W, 3], seconds) as often as one is complete."""
        for picture, time in zip(pictures, times, strict=True):
            if len(self._pictures) == self.frames:
                self._pictures.popleft()
                self._times.popleft()
            self._pictures.append(picture.copy())
            self._times.append(float(time))
            self._due = max(0, self._due - 1)
            self._since += 1
            if len(self._pictures) == self.frames and not self._due:
                yield self._window()
                self._due, self._since = self.step, 0

    def finish(self) -> Iterator[tuple[np.ndarray, float]]:
        """The window that ends with the clip, if the last one did not."""
        if self._since and self._pictures:
            yield self._window()

    def _window(self) -> tuple[np.ndarray, float]:
        pictures = list(self._pictures)
        pictures += [pictures[-1]] * (self.frames - len(pictures))
        return np.stack(pictures), (self._times[0] + self._times[-1]) / 2


@dataclass(eq=False)
class Batch(Generic[Owner]):
    """What is encoded at once.

    Attributes:
        inputs: uint8 [N, ...].
        parts: whose they are, in order: (owner, number of inputs).
    """

    inputs: np.ndarray
    parts: list[tuple[Owner, int]]


class Batcher(Generic[Owner]):
    """Gathers inputs of one shape; a full batch, or one that others do not fit in, is handed out.

    Args:
        size: inputs in a full batch.
        pinned: memory from which a GPU copies by itself.
    """

    def __init__(self, size: int, *, pinned: bool = False) -> None:
        self.size = size
        self._pinned = pinned
        self._free: list[np.ndarray] = []
        self._buffer = np.zeros((0,), np.uint8)
        self._held = 0
        self._parts: list[tuple[Owner, int]] = []

    def add(self, owner: Owner, inputs: np.ndarray) -> Iterator[Batch[Owner]]:
        """Copy uint8 [n, ...] of an owner; yields the batches that this completes."""
        if self._held and self._buffer.shape[1:] != inputs.shape[1:]:
            yield from self.flush()
        first = 0
        while first < len(inputs):
            if not self._held:
                self._buffer = self._room(inputs.shape[1:])
            count = min(len(inputs) - first, self.size - self._held)
            self._buffer[self._held : self._held + count] = inputs[first : first + count]
            self._held, first = self._held + count, first + count
            if self._parts and self._parts[-1][0] is owner:
                self._parts[-1] = (owner, self._parts[-1][1] + count)
            else:
                self._parts.append((owner, count))
            if self._held == self.size:
                yield from self.flush()

    def flush(self) -> Iterator[Batch[Owner]]:
        """What was gathered, if anything."""
        if self._held:
            batch = Batch(self._buffer[: self._held], self._parts)
            self._held, self._parts = 0, []
            yield batch

    def reuse(self, batch: Batch[Owner]) -> None:
        """A batch is not needed any more: its memory serves the next one."""
        memory = batch.inputs.base
        if isinstance(memory, np.ndarray):
            self._free.append(memory)

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        self._free = [memory for memory in self._free if memory.shape == (self.size, *shape)]
        if self._free:
            return self._free.pop()
        return torch.empty((self.size, *shape), dtype=torch.uint8, pin_memory=self._pinned).numpy()
