"""Which encoder, and how it is set up: every choice that decides the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...core.errors import UsageError
from ..decoding.geometry import Scaling
from .frames import InputKind
from .tuning import Precision

Descriptor = Literal["imac", "rmac", "avg", "head"]

VIDEO_NETWORKS = ("r3d_18", "mc3_18", "r2plus1d_18")
NEED_A_FILE = ("torchscript", "run")
NAMES = ("resnet50", "torchvision:NAME", "timm:NAME", *VIDEO_NETWORKS, *NEED_A_FILE)
"""What --encoder takes."""


@dataclass(frozen=True)
class Window:
    """How many sampled pictures a descriptor is made of, and how far apart windows begin; frame encoders: 1 and 1."""

    frames: int = 1
    step: int = 1


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder, and how it is set up; what is None follows the encoder's own convention.

    Attributes:
        name: one of `NAMES`.
        weights: "default" (published), "auto" (default if obtainable, else random), "random", or a file; for "run" the
            folder of a trained encoder.
        size: short side of the frames in pixels.
        crop: side of the centre crop in pixels, 0 for the whole picture.
        input: range of values, see `frames.Preprocessing`; None asks the file (TorchScript) or takes the network's own.
        precision: of convolutions and linear layers; descriptors are float32 in any case.
        stages: "all", or numbers such as "2,4"; stage 1 has the largest maps, the last the smallest.
        descriptor: see `descriptors`; "head" is the network's own embedding before its classifier.
        inflate: the weights are a 2-D ResNet-18's, expanded along time (r3d_18 and mc3_18).
        clip_frames, clip_step: pictures in a window of a clip encoder, and between the beginnings of two windows.
        compile: use torch.compile.
        scaling: how pictures are made smaller, see `decoding.geometry`.
    """

    name: str
    weights: str = "default"
    size: int | None = None
    crop: int | None = None
    input: InputKind | None = None
    precision: Precision = "auto"
    stages: str | None = None
    descriptor: Descriptor | None = None
    inflate: bool = False
    clip_frames: int | None = None
    clip_step: int | None = None
    compile: bool = False
    scaling: Scaling = "area"

    def __post_init__(self) -> None:
        family, _, rest = self.name.partition(":")
        if family in ("torchvision", "timm"):
            if not rest:
                raise UsageError(f"--encoder {self.name!r} names no network; write {family}:resnet18, for example")
        elif self.name not in NAMES:
            raise UsageError(f"--encoder {self.name!r} is unknown; choose from {', '.join(NAMES)}")
        if self.name in NEED_A_FILE and self.weights in ("default", "auto", "random"):
            what = "FOLDER" if self.name == "run" else "FILE"
            raise UsageError(f"--encoder {self.name} needs --weights {what} (it is {self.weights!r})")
        for flag, value, choices in (
            ("precision", self.precision, get_args(Precision)),
            ("descriptor", self.descriptor, (None, *get_args(Descriptor))),
            ("input", self.input, (None, *get_args(InputKind))),
        ):
            if value not in choices:
                raise UsageError(f"--{flag} {value!r} is unknown; choose from {', '.join(map(str, choices))}")
        self._check_what_fits()

    def _check_what_fits(self) -> None:
        if self.name in NEED_A_FILE:
            for flag, value in (
                ("stages", self.stages),
                ("descriptor", self.descriptor),
            ):
                if value is not None:
                    raise UsageError(f"--{flag} does not go with --encoder {self.name}, whose file decides it")
        if self.name not in (*VIDEO_NETWORKS, "run") and (self.clip_frames is not None or self.clip_step is not None):
            raise UsageError(f"--clip-frames, --clip-step: {self.name} takes single frames, not clips")
        for flag, length, least in (("clip-frames", self.clip_frames, 2), ("clip-step", self.clip_step, 1)):
            if length is not None and not least <= length <= 512:
                raise UsageError(f"--{flag} is {length}; choose {least} to 512 pictures (16 is usual)")
        if self.inflate and self.name not in ("r3d_18", "mc3_18"):
            why = (
                "its convolutions are split into space and time, with a layer between them that no 2-D network has"
                if self.name == "r2plus1d_18"
                else "only clip encoders have a time axis to expand weights along"
            )
            raise UsageError(f"--inflate does not go with --encoder {self.name}: {why}; use r3d_18 or mc3_18")
        if self.inflate and self.weights in ("random", "auto"):
            raise UsageError("--inflate needs weights of a 2-D ResNet-18: --weights default (ImageNet) or a file")
        if self.descriptor == "head" and self.stages is not None:
            raise UsageError("--stages does not go with --descriptor head, which uses no feature maps")
        parse_stages(self.stages)


def parse_stages(text: str | None) -> tuple[int, ...] | None:
    """The numbers in "2,4", as (2, 4); None for "all" and None. Raises UsageError for anything but rising numbers."""
    if text is None or text == "all":
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or list(numbers) != sorted(set(numbers)):
        raise UsageError(f"--stages {text!r}: write all, or rising numbers from 1 on such as 2,4")
    return numbers
