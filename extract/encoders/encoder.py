"""The encoder that extraction runs: a tuned network with its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .frames import Preprocessing, to_network_input
from .scripted import checked_output
from .spec import Window
from .tuning import Tuned


class Encoder:
    """A network with its preprocessing.

    The same inputs in a batch of the same size give the same numbers, bit for bit; in batches of other sizes they may
    differ by rounding.

    Attributes:
        dim: length of a descriptor.
        preprocessing: size, crop and input range of its frames.
        device: where it computes.
        info: what store.json records; equal infos (without "weights_path") mean comparable descriptors.
        window: of the pictures that a descriptor is made of; 1 and 1 for frame encoders.
    """

    def __init__(
        self,
        network: Tuned,
        dim: int,
        preprocessing: Preprocessing,
        device: torch.device,
        info: dict[str, Any],
        window: Window,
    ) -> None:
        self.network = network
        self.dim = dim
        self.preprocessing = preprocessing
        self.device = device
        self.info = info
        self.window = window

    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Descriptors of equally large frames, or clips of frames.

        Args:
            frames: uint8 [N, H, W, 3] RGB, scaled and cropped (see `decoding.geometry`); for clip encoders
                [N, L, H, W, 3] with L = ``window.frames``. N may be 0.

        Returns:
            float32 [N, dim] on ``device``.
        """
        if len(frames) == 0:
            return torch.zeros((0, self.dim), device=self.device)
        with torch.inference_mode():
            output = self.network(to_network_input(frames, self.preprocessing.input, self.device))
        return checked_output(output, len(frames), f"encoder {self.info['name']}")

    def __call__(self, frames: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [N, (L,) H, W, 3], or a list of [(L,) H, W, 3] of any sizes -> float32 [N, dim]."""
        if isinstance(frames, np.ndarray):
            return self.encode(frames).cpu().numpy()
        result = np.zeros((len(frames), self.dim), np.float32)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, frame in enumerate(frames):
            by_shape.setdefault(frame.shape, []).append(index)
        for rows in by_shape.values():
            result[rows] = self(np.stack([frames[row] for row in rows]))
        return result
