"""What is decoded, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import DataError


@dataclass(frozen=True)
class Source:
    """A clip to decode: a file, or a part of one (a member of a shard).

    Attributes:
        key: what its pictures are called by; unique among the clips that are decoded together.
        path: the file.
        offset, bytes: where in the file it lies; ``bytes`` None takes the whole file.
        sha256: the clip's hash when it must be checked, else "".
        start_seconds: where in its video it begins.
        group: clips of one group share batches, others do not.
    """

    key: str
    path: Path
    offset: int = 0
    bytes: int | None = None
    sha256: str = ""
    start_seconds: float = 0.0
    group: int = 0


Pick = Callable[[Source, int], np.ndarray]
"""Which of a clip's T sampled pictures are wanted: (clip, T) -> ascending indices."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive pictures of a clip.

    Attributes:
        frames: uint8 [n, H, W, 3] RGB, scaled and cropped, n >= 1; valid until the next item is asked for.
        times: float64 [n] seconds from the clip's first picture.
    """

    frames: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Again:
    """The clip is decoded anew, by another decoder: what came of it so far does not count."""


@dataclass(frozen=True)
class End:
    """Nothing more comes of the clip: which decoder made its pictures ("pyav", "dali"), and why it failed, if it did.
    Pictures that came before an error do not count."""

    decoder: str = ""
    error: DataError | None = None


Item = Chunk | Again | End
