"""Frame encoders: from uint8 RGB frames to one descriptor per frame.

`ENCODERS` holds one entry per encoder; a further one is one function and one entry. `build_encoder` makes any of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...core.engine import Engine
from ...core.errors import ReelkinError, UsageError
from ..frames import Preprocessing, to_network_input
from .imac import ResNetIMAC, fold_batch_norms
from .scripted import checked_output, find_input, load_scripted
from .torchvision_import import import_torchvision
from .weights import RANDOM, Weights, file_weights, fill_with_random, load_state, published_weights

log = logging.getLogger("reelkin.extract")

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder, and how it is set up; what is None follows the encoder's own convention.

    Attributes:
        name: a key of `ENCODERS`.
        weights: "default" (published, ImageNet), "auto" (default if obtainable, else random), "random", or a file.
        size: short side of the frames in pixels.
        crop: side of the centre crop in pixels, 0 for the whole picture.
        input: "uint8" or "imagenet"; None asks the file (TorchScript only).
        precision: of the convolutions; descriptors are float32 in any case.
    """

    name: str
    weights: str = "default"
    size: int | None = None
    crop: int | None = None
    input: Literal["uint8", "imagenet"] | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.name not in ENCODERS:
            raise UsageError(f"--encoder {self.name!r} is unknown; choose from {', '.join(ENCODERS)}")
        if ENCODERS[self.name].needs_file and self.weights in ("default", "auto", "random"):
            raise UsageError(f"--encoder {self.name} needs --weights FILE (it is {self.weights!r})")


@dataclass(frozen=True)
class Window:
    """How many sampled pictures a descriptor is made of, and how far apart windows begin; 1 and 1 for frame encoders."""

    frames: int = 1
    step: int = 1


class Encoder:
    """A network with its preprocessing.

    Attributes:
        dim: length of a descriptor.
        preprocessing: size, crop and input range of its frames.
        device: where it computes.
        info: what store.json records; equal infos (without "weights_path") mean comparable descriptors.
        window: of the pictures that a descriptor is made of.
    """

    window = Window()

    def __init__(
        self, module: nn.Module, dim: int, preprocessing: Preprocessing, device: torch.device, info: dict[str, Any]
    ) -> None:
        self.module = module
        self.dim = dim
        self.preprocessing = preprocessing
        self.device = device
        self.info = info
        self._half = info["precision"] == "bfloat16"

    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Descriptors of equally large frames.

        Args:
            frames: uint8 [N, H, W, 3] RGB, scaled and cropped (see `decoding.geometry`); N may be 0.

        Returns:
            float32 [N, dim] on ``device``.
        """
        if len(frames) == 0:
            return torch.zeros((0, self.dim), device=self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            output = self.module(to_network_input(frames, self.preprocessing.input, self.device))
        return checked_output(output, len(frames), f"encoder {self.info['name']}")

    def __call__(self, frames: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [N, H, W, 3], or a list of [H, W, 3] of any sizes -> float32 [N, dim]."""
        if isinstance(frames, np.ndarray):
            return self.encode(frames).cpu().numpy()
        result = np.zeros((len(frames), self.dim), np.float32)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, frame in enumerate(frames):
            by_shape.setdefault(frame.shape, []).append(index)
        for rows in by_shape.values():
            result[rows] = self(np.stack([frames[row] for row in rows]))
        return result


@dataclass(frozen=True)
class EncoderKind:
    """An entry of the registry.

    Attributes:
        summary: one line for --help.
        dim: descriptor length; None when the file decides.
        size, crop: default frame size.
        needs_file: True when --weights must name a file.
        build: makes the module, ready for inference.
    """

    summary: str
    dim: int | None
    size: int
    crop: int
    needs_file: bool
    build: Callable[[EncoderSpec, torch.device, Engine | None], Encoder]


def build_encoder(spec: EncoderSpec, device: torch.device | str = "cpu", engine: Engine | None = None) -> Encoder:
    """Make an encoder, in evaluation mode and without gradients.

    Args:
        spec: which one.
        device: where it computes.
        engine: of a run with several ranks: one rank per machine downloads, and all take the same weights.

    Raises:
        UsageError: the file or the sizes do not fit the encoder.
        ReelkinError: published weights were demanded and cannot be had.
    """
    return ENCODERS[spec.name].build(spec, torch.device(device), engine)


def encoder_list() -> str:
    """One line per encoder with its output dimension, for help texts."""
    return "; ".join(f"{name}: {kind.summary}, D = {kind.dim or 'as in the file'}" for name, kind in ENCODERS.items())


def _frame_size(spec: EncoderSpec) -> tuple[int, int]:
    """Short side and crop: as asked, else the encoder's own; a smaller picture is not cropped further."""
    kind = ENCODERS[spec.name]
    size = kind.size if spec.size is None else spec.size
    return size, min(kind.crop, size) if spec.crop is None else spec.crop


def _info(spec: EncoderSpec, dim: int, weights: Weights, preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dim": dim,
        "weights": weights.name,
        "weights_sha256": weights.sha256,
        "random_weights": weights.random,
        "weights_path": str(weights.path.resolve()) if weights.path else None,
        "precision": spec.precision,
        "preprocessing": preprocessing.as_dict(),
    }


def _choose_weights(spec: EncoderSpec, url: str, sha256_prefix: str, engine: Engine | None) -> Weights:
    if spec.weights == "random":
        return _say_random("--weights random", engine)
    if spec.weights not in ("default", "auto"):
        return file_weights(Path(spec.weights))
    failure: ReelkinError | None = None
    # Ranks of one machine share the cache: the first one fills it while the others wait.
    for turn in (True, False):
        if engine is None or (engine.local_rank == 0) == turn:
            try:
                weights = published_weights(url, sha256_prefix)
            except ReelkinError as error:
                failure = error
        if engine is None:
            break
        engine.barrier(f"weights {turn}")
    failed_anywhere = failure is not None if engine is None else engine.agree(failure is not None, "weights missing")
    if not failed_anywhere:
        return weights
    if spec.weights == "default":
        raise failure or ReelkinError("another rank could not get the weights; its message says why")
    return _say_random(str(failure or "another rank could not get the published weights"), engine)


def _say_random(why: str, engine: Engine | None) -> Weights:
    if engine is None or engine.is_main:
        log.warning("RANDOM WEIGHTS: descriptors see colours and edges, but nothing was learnt. Why: %s", why)
    return RANDOM


RESNET50_URL = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
"""ImageNet weights IMAGENET1K_V1, which the published descriptors use; the name holds the SHA-256's first digits."""


def _build_resnet50(spec: EncoderSpec, device: torch.device, engine: Engine | None) -> Encoder:
    if spec.input == "uint8":
        raise UsageError("--input uint8 does not fit resnet50, whose weights expect ImageNet-normalised frames")
    preprocessing = Preprocessing(*_frame_size(spec), "imagenet")
    resnet = import_torchvision().models.resnet50(weights=None)
    weights = _choose_weights(spec, RESNET50_URL, "0676ba61", engine)
    if weights.path is None:
        weights = Weights("random", None, fill_with_random(resnet, "resnet50"))
    else:
        load_state(resnet, weights.path, unused="fc.")
    module = fold_batch_norms(ResNetIMAC(resnet).eval()).requires_grad_(False)
    module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(module, 3840, preprocessing, device, _info(spec, 3840, weights, preprocessing))


def _build_scripted(spec: EncoderSpec, device: torch.device, engine: Engine | None) -> Encoder:
    size, crop = _frame_size(spec)
    weights = file_weights(Path(spec.weights))
    module = load_scripted(Path(spec.weights), device)
    found, dim = find_input(
        module, Path(spec.weights), crop or size, (spec.input,) if spec.input else ("uint8", "imagenet"), device
    )
    preprocessing = Preprocessing(size, crop, found)
    if engine is None or engine.is_main:
        log.info("%s takes %s frames and gives %d numbers a frame", weights.name, found, dim)
    return Encoder(module, dim, preprocessing, device, _info(spec, dim, weights, preprocessing))


ENCODERS: dict[str, EncoderKind] = {
    "resnet50": EncoderKind(
        "torchvision ResNet-50 with iMAC over its four stages, as TCA uses it", 3840, 256, 224, False, _build_resnet50
    ),
    "torchscript": EncoderKind("any TorchScript file given with --weights", None, 256, 224, True, _build_scripted),
}
