"""What the DALI child is asked for a clip: made where the clip's plan is known, read where DALI runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...shards.video.decode import scaled_size
from ...shards.video.orientation import Orientation
from ...shards.video.probe import DecodingPlan
from ...shards.video.sampling import Samples
from .batching import Need
from .dali_graph import DaliSample
from .geometry import Geometry


@dataclass(frozen=True, eq=False)
class ClipRequest:
    """One clip for the DALI child.

    Attributes:
        path, offset, bytes: where its bytes lie; ``bytes`` None is the whole file.
        indices: int64 [T], ascending, repeats allowed, of pictures in the order of display.
        times: float64 [T], seconds, handed back with the pictures.
        stored: (width, height) of a picture as it is stored.
        scaled: (width, height) that it is scaled to, before it is turned.
        turn: how it is laid for display.
        crop: side of the centred square that is kept; 0 keeps the picture (see `Geometry`).
        colour_matrix: see `DecodingPlan`.
    """

    path: Path
    offset: int
    bytes: int | None
    indices: np.ndarray
    times: np.ndarray
    stored: tuple[int, int]
    scaled: tuple[int, int]
    turn: Orientation
    crop: int
    colour_matrix: int

    @classmethod
    def of(
        cls, path: Path, offset: int, size: int | None, plan: DecodingPlan, samples: Samples, geometry: Geometry
    ) -> ClipRequest:
        """For a clip whose plan `route.why_not_dali` has found nothing against."""
        stored = (plan.probe.width, plan.probe.height)
        return cls(
            path,
            offset,
            size,
            samples.indices,
            samples.times,
            stored,
            scaled_size(*stored, geometry.short_side),
            plan.orientation,
            geometry.crop,
            plan.colour_matrix,
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "path": str(self.path),
            "offset": self.offset,
            "bytes": self.bytes,
            "indices": self.indices.tolist(),
            "times": self.times.tolist(),
            "stored": list(self.stored),
            "scaled": list(self.scaled),
            "turn": asdict(self.turn),
            "crop": self.crop,
            "colour_matrix": self.colour_matrix,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClipRequest:
        """What `as_dict` gave."""
        return cls(
            Path(values["path"]),
            values["offset"],
            values["bytes"],
            np.asarray(values["indices"], np.int64),
            np.asarray(values["times"], np.float64),
            (values["stored"][0], values["stored"][1]),
            (values["scaled"][0], values["scaled"][1]),
            Orientation(**values["turn"]),
            values["crop"],
            values["colour_matrix"],
        )

    def read(self) -> np.ndarray:
        """uint8 [bytes]: the clip. Raises OSError, also when there are fewer bytes than asked for."""
        count = -1 if self.bytes is None else self.bytes
        data = np.fromfile(self.path, np.uint8, count, offset=self.offset)
        if self.bytes is not None and len(data) != self.bytes:
            raise OSError(f"{len(data)} of {self.bytes} bytes at {self.offset}")
        return data

    def need(self, file_bytes: int) -> Need:
        """What decoding it takes."""
        pixels = self.stored[0] * self.stored[1] + 2 * self.scaled[0] * self.scaled[1]
        return Need(self.indices, 3 * pixels, file_bytes)

    def sample(self, data: np.ndarray, first: int, last: int) -> DaliSample:
        """For DALI: the pictures at positions ``first`` to ``last`` (exclusive) of the indices."""
        return DaliSample(data, self.indices[first:last], *self.stored, *self.scaled, self.colour_matrix)

    def shown(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 [T, height, width, 3] as decoded -> a view [T, H, W, 3], turned and cropped."""
        turned = self.turn.apply(pictures.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
        return Geometry(min(self.scaled), self.crop).cut(turned)
