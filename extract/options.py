"""Settings of the two commands of this package, ``extract/run.py`` and ``extract/fit_pca.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..core.errors import UsageError
from .encoders import EncoderSpec, Precision, encoder_list


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What both commands read: shards with an encoder, or a feature store."""

    output: Path
    """What to write; see the command's description."""

    shards: Path | None = None
    """Folder made by shards/build.py; needs --encoder."""

    features: Path | None = None
    """Instead of shards: a feature store that was made without a PCA."""

    encoder: Annotated[str, tyro.conf.arg(help=f"What turns a frame into numbers. {encoder_list()}.")] = ""

    weights: str = "default"
    """The encoder's weights: "default" (published, ImageNet; from torch's cache or downloaded), "auto" (default if it
    can be had, else random), "random" (fixed random numbers, to try the pipeline), or a file: .pth or .safetensors
    with a state dict, for torchscript the TorchScript file. A TorchScript file runs code: name only one you trust."""

    size: int | None = None
    """Short side of the frames in pixels. Default: 256."""

    crop: int | None = None
    """Side of the centre crop in pixels, 0 for the whole picture. Default: 224 (TCA: size 256, crop 224)."""

    input: Literal["uint8", "imagenet"] | None = None
    """What a TorchScript file takes: 0..255 as uint8, or ImageNet-normalised floats. Default: try in this order."""

    precision: Precision = "float32"
    """Of the convolutions. bfloat16 is about twice as fast on processors that have it; features change slightly."""

    fps: float = 1.0
    """Frames per second, by time stamp."""

    batch_frames: int = 32
    """Most frames in a forward pass; frames of several videos share one."""

    decode_threads: int = 1
    """Videos decoded at the same time, in each rank, while the encoder computes."""

    limit: int | None = None
    """Only the first so many videos; default all."""

    dry_run: bool = False
    """Print what would be done, with sizes and an expected time, and stop."""

    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """How several processes work together; auto goes by the launcher (horovodrun, torchrun, or none)."""

    def __post_init__(self) -> None:
        if (self.features is None) == (self.shards is None):
            raise UsageError("shards, features: give one of them: --shards FOLDER (with --encoder) or --features STORE")
        if self.shards is not None:
            if not self.encoder:
                raise UsageError(f"encoder: --shards needs --encoder; {encoder_list()}")
            _ = self.spec  # complains about a bad value
            if self.shards.resolve() == self.output.resolve():
                raise UsageError("output: must be another folder than --shards")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit: {self.limit} is below 1; leave it out to take every video")

    @property
    def spec(self) -> EncoderSpec:
        """The encoder as the library takes it."""
        return EncoderSpec(self.encoder, self.weights, self.size, self.crop, self.input, self.precision)


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(InputOptions):
    """Extract frame features from shards into a feature store, or apply a PCA to a store.

    With --shards: decode, encode, apply --pca if given, and write the store --output. A stopped run goes on from there.
    With --features: apply --pca to the features of that store, without decoding again, and write the store --output.
    """

    pca: Path | None = None
    """PCA file from extract/fit_pca.py, applied to every feature; default none."""

    max_reject_share: float = 0.5
    """End with exit code 3 when a larger share of the videos cannot be used. The store is complete either way."""

    rebuild: bool = False
    """Replace features in the output folder that were made with other settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share: {self.max_reject_share} is not a share; write 0.05 for 5 %")
        if self.features is not None and self.pca is None:
            raise UsageError("pca: --features needs --pca, the PCA to apply")
        if self.features is not None and self.features.resolve() == self.output.resolve():
            raise UsageError("output: must be another folder than --features")


@dataclass(frozen=True, kw_only=True)
class FitPcaConfig(InputOptions):
    """Fit a PCA with whitening on frame features and write it to the file --output.

    With --features: on frames of that store. With --shards: on frames that are sampled, decoded and encoded for it.
    """

    components: int = 1024
    """Dimensions to keep."""

    whiten: bool = True
    """Give every kept dimension variance 1."""

    video_ids: Path | None = None
    """File with one video id a line: fit on these only, for example on training videos. Default: all."""

    frames_per_video: int = 10
    """Frames drawn from each video at random, without repetition; all of a shorter one."""

    seed: int = 0
    """Of the draw, which depends on the seed and the video's id only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1 or self.frames_per_video < 1:
            raise UsageError("components, frames_per_video: both must be at least 1")
