"""Memory that a decoding child and its parent share: pictures go over without being copied into a pipe.

The child gives out room in a ring and fills it; the parent reads the pictures in the order in which they were sent and
counts those it has done with. That count lies in the memory itself, so that giving back takes no message. The memory
has no name and is gone with the last process that maps it, however that ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import deque

import numpy as np

_HEADER = 4096  # one page, of which eight bytes count what was given back
_ALIGNMENT = 64


class Arena:
    """Shared memory; made by the parent, attached by the child through the file descriptor.

    Attributes:
        size: bytes for pictures.
        descriptor: what a child inherits.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._memory = mmap.mmap(descriptor, _HEADER + size)
        self._returned = np.ndarray((1,), np.int64, self._memory)

    @classmethod
    def create(cls, size: int) -> Arena:
        """New memory of ``size`` bytes; pages that are never written to cost nothing. Raises OSError."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("reelkin-pictures", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.ftruncate(descriptor, _HEADER + size)
            return cls(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise

    def view(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """uint8 of a shape at ``offset``, writable. Raises ValueError when it does not lie within the memory."""
        if offset < 0 or min(shape, default=0) < 0 or offset + int(np.prod(shape)) > self.size:
            raise ValueError(f"{shape} at {offset} does not fit {self.size} bytes")
        return np.ndarray(shape, np.uint8, self._memory, _HEADER + offset)

    @property
    def returned(self) -> int:
        """Pieces that the parent has given back so far."""
        return int(self._returned[0])

    def give_back(self) -> None:
        """Parent: the oldest piece is not needed any more."""
        self._returned[0] += 1

    def close(self) -> None:
        """Let go of the descriptor; views keep the mapping alive as long as they live."""
        os.close(self.descriptor)


class Ring:
    """The child's side: which parts of the memory are free. Pieces are given back in the order they were given out."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._out: deque[tuple[int, int]] = deque()
        self._head = 0
        self._seen = 0

    def place(self, length: int) -> int | None:
        """Offset of a free piece, which is taken; None when there is no room yet.

        Raises:
            ValueError: the memory could never hold so much.
        """
        if length > self._arena.size:
            raise ValueError(f"{length} bytes do not fit into {self._arena.size}")
        length = min(-(-length // _ALIGNMENT) * _ALIGNMENT, self._arena.size)
        returned = self._arena.returned
        for _ in range(returned - self._seen):
            self._out.popleft()
        self._seen = returned
        offset = self._free(length)
        if offset is not None:
            self._out.append((offset, length))
            self._head = offset + length
        return offset

    def _free(self, length: int) -> int | None:
        if not self._out:
            return 0
        tail = self._out[0][0]
        if self._head > tail:  # the free part is what lies outside of tail..head
            if self._head + length <= self._arena.size:
                return self._head
            return 0 if length < tail else None
        return self._head if self._head + length < tail else None
