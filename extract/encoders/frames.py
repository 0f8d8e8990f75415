"""How a frame is brought into the form an encoder takes: size, crop, layout and range of values.

The decoder scales and crops (`decoding.geometry`); what is left is the range, computed on the encoder's device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UsageError
from ..decoding.geometry import Geometry, Scaling

InputKind = Literal["uint8", "unit", "imagenet", "kinetics", "half", "clip"]

NORMALISATIONS: dict[InputKind, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation of red, green and blue in 0..1, as the networks' publishers give them."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a frame between the decoder and the network.

    Attributes:
        short_side: pixels of the scaled short side; the other side follows, so that nothing is distorted.
        crop: side of the centred square that is kept, in pixels; 0 keeps the whole picture.
        input: "uint8" hands on 0..255 as it is; the others map to 0..1, subtract a mean and divide by a standard
            deviation (`NORMALISATIONS`).
        scaling: see `decoding.geometry`.
    """

    short_side: int
    crop: int
    input: InputKind
    scaling: Scaling = "area"

    def __post_init__(self) -> None:
        if not 32 <= self.short_side <= 2048:
            raise UsageError(f"the short side is {self.short_side} pixels; choose 32 to 2048 (224 or 256 is usual)")
        if self.crop and not 32 <= self.crop <= self.short_side:
            raise UsageError(
                f"the crop is {self.crop} pixels, the short side {self.short_side}; the crop must be 32 or more and "
                "fit in the picture (0 keeps the whole picture)"
            )

    def as_dict(self) -> dict[str, Any]:
        """For store.json."""
        return asdict(self)

    @property
    def geometry(self) -> Geometry:
        """What of it the decoder does."""
        return Geometry(self.short_side, self.crop, self.scaling)


def to_network_input(frames: np.ndarray | Tensor, kind: InputKind, device: torch.device) -> Tensor:
    """Frames or clips as a network takes them.

    Args:
        frames: uint8 [N, H, W, 3] frames or [N, L, H, W, 3] clips.

    Returns:
        [N, 3, H, W] or [N, 3, L, H, W] on ``device``: uint8, or float32 normalised. The memory stays channels-last,
        which is how the frames lie and what convolutions on CPUs and tensor cores prefer.
    """
    batch = torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames
    if batch.dtype != torch.uint8 or batch.ndim not in (4, 5) or batch.shape[-1] != 3:
        raise ValueError(
            f"frames are {batch.dtype} {tuple(batch.shape)}; expected uint8 [N, H, W, 3] or [N, L, H, W, 3]"
        )
    x = batch.to(device, non_blocking=True).movedim(-1, 1)
    if kind == "uint8":
        return x
    shape = (1, 3, *[1] * (x.ndim - 2))
    mean, deviation = (torch.tensor(values, device=device).view(shape) for values in NORMALISATIONS[kind])
    return x.float().div_(255).sub_(mean).div_(deviation)
