"""Settings of ``extract/run.py`` and ``extract/fit_pca.py``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..core.errors import Reason, UsageError
from ..shards.video.sampling import Sampling, SamplingMode
from .decoding.geometry import Scaling
from .encoders import Descriptor, EncoderSpec, Precision, encoder_list
from .encoders.frames import InputKind


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """How pictures are chosen, decoded and encoded: what both commands share."""

    output: Path
    """What to write; see the command's description."""

    shards: Path | None = None
    """Folder made by shards/build.py."""

    encoder: Annotated[str, tyro.conf.arg(help=f"What turns a frame into numbers. {encoder_list()}.")] = ""

    weights: str = "default"
    """The encoder's weights: "default" (published, ImageNet; from torch's cache or downloaded), "auto" (default if it
    can be had, else random), "random" (fixed random numbers, to try the pipeline), or a file: .pth or .safetensors
    with a state dict, for torchscript the TorchScript file, for run a folder. A TorchScript file
    runs code: name only one you trust."""

    size: int | None = None
    """Short side of the frames in pixels. Default: the network's own, 256 for most."""

    crop: int | None = None
    """Side of the centre crop in pixels, 0 for the whole picture. Default: the network's own,
    224 for most (TCA: size 256, crop 224)."""

    scaling: Scaling = "area"
    """How pictures are made smaller: area averages; tca is OpenCV's bicubic, as the published TCA code has it."""

    input: InputKind | None = None
    """Range of values: uint8 is 0..255 as it is; the others are floats with the mean and deviation of a training set.
    Default: the network's own; a TorchScript file is tried with uint8, then with imagenet."""

    precision: Precision = "auto"
    """Of convolutions and linear layers. auto: bfloat16 where the machine computes it natively and features stay the
    same (cosine 0.9999 on test pictures), else float32. The store says which it was. float16: GPUs only."""

    stages: str | None = None
    """Stages of the network that the descriptor sees: all, or numbers such as 2,4 (1 has the largest maps). Default:
    all; the last for avg."""

    descriptor: Descriptor | None = None
    """imac (TCA's), rmac (TCA's region variant), avg (global averages), or head (the network's own embedding).
    Default: imac, and head for networks without maps of several sizes and for clip encoders."""

    inflate: bool = False
    """The weights are a 2-D ResNet-18's, expanded along time; for r3d_18 and mc3_18."""

    clip_frames: int | None = None
    """Pictures in each window of a clip encoder. Default: 16."""

    clip_step: int | None = None
    """Pictures between the beginnings of two windows. Default: as many as a window has."""

    compile: bool = False
    """Use torch.compile: takes a minute at the start; needs a C++ compiler on CPUs."""

    sampling: SamplingMode = "times"
    """Which pictures: times (those shown at k/fps seconds), keyframes (fast: nothing else is decoded; at most fps of
    them a second), all, or tca-legacy (as the published TCA code counts them)."""

    fps: float = 1.0
    """Pictures per second, by time stamp."""

    batch_frames: int = 0
    """Most frames in a forward pass; frames of several videos share one. 0: 16 on a CPU, whose cores each do a batch of
    their own, and 64 on a GPU."""

    decoder: Literal["auto", "pyav", "dali"] = "auto"
    """What decodes: pyav on the CPU; dali on the GPU (without one: VP8, VP9 and MJPEG on the CPU), and PyAV what DALI
    cannot take; auto: dali where there is a GPU and DALI is installed. The store says which decoder made each row."""

    decode_workers: int = 0
    """Processes that decode, in each rank, while the encoder computes. 0: one for each core of the rank."""

    timeout_seconds: float = 120.0
    """For decoding one clip, on the clock and of the processor; 1 s per MB and 10 s per second of video add to it."""

    limit: int | None = None
    """Only the first so many videos; default all."""

    dry_run: bool = False
    """Print what would be done, with the time and disk that a sample of the videos leads to expect, and stop."""

    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """How several processes work together; auto goes by the launcher (horovodrun, torchrun, or none)."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit: {self.limit} is below 1; leave it out to take every video")
        if self.timeout_seconds <= 0:
            raise UsageError(f"timeout_seconds: {self.timeout_seconds} is not above 0")
        _ = self.chosen  # complains about a bad value

    def needs_encoder(self) -> None:
        """Raise UsageError unless the encoder is named and its settings fit."""
        if not self.encoder:
            raise UsageError(f"encoder: name one with --encoder; {encoder_list()}")
        _ = self.spec
        if self.shards is not None and os.path.realpath(self.shards) == os.path.realpath(self.output):
            raise UsageError("output: must be another folder than --shards")

    @property
    def spec(self) -> EncoderSpec:
        """The encoder as the library takes it."""
        return EncoderSpec(
            self.encoder,
            self.weights,
            self.size,
            self.crop,
            self.input,
            self.precision,
            self.stages,
            self.descriptor,
            self.inflate,
            self.clip_frames,
            self.clip_step,
            self.compile,
            self.scaling,
        )

    @property
    def chosen(self) -> Sampling:
        """The sampling as the library takes it."""
        return Sampling(self.sampling, self.fps)


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionOptions):
    """Extract frame features into the store --output: from shards, or from raw videos in one go.

    With --shards: decode, encode, apply --pca if given. With --videos: build shards first; with --components also fit a
    PCA and apply it. A stopped run goes on from there.
    """

    videos: tuple[Path, ...] = ()
    """Instead of shards: folders, video files and lists, as shards/build.py takes them. The shards, the features before
    the PCA and the PCA are kept in the folder OUTPUT.work."""

    components: int | None = None
    """With --videos: fit a PCA with whitening to so many dimensions on the features, and apply it (TCA: 1024)."""

    pca: Path | None = None
    """PCA file from extract/fit_pca.py, applied to every feature; default none."""

    max_reject_share: float = 0.5
    """End with exit code 3 when a larger share of the videos cannot be used. The store is complete either way."""

    retry: tuple[Reason, ...] = ()
    """Try videos again that were rejected here for these reasons (timeout, decoder-died, ...)."""

    rebuild: bool = False
    """Replace features in the output folder that were made with other settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.shards is None) == (not self.videos):
            raise UsageError("shards, videos: give one of them: --shards FOLDER or --videos FOLDER")
        if self.videos and os.path.abspath(self.output) == os.sep:
            raise UsageError("output: name a folder that is not the root: what lies in between is kept beside it")
        if self.videos and self.dry_run:
            raise UsageError("dry_run: needs --shards; for raw videos, shards/build.py --dry-run says what they take")
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share: {self.max_reject_share} is not a share; write 0.05 for 5 %")
        if self.components is not None and (not self.videos or self.pca is not None or self.components < 1):
            raise UsageError(
                "components: a number above 0, together with --videos and without --pca; with shards, fit with "
                "extract/fit_pca.py"
            )
        self.needs_encoder()


@dataclass(frozen=True, kw_only=True)
class FitPcaConfig(ExtractionOptions):
    """Fit a PCA with whitening on frame features and write it to the file --output.

    With --features: on frames of that store. With --shards: on frames that are sampled, decoded and encoded for it.
    """

    features: Path | None = None
    """A feature store that was made without a PCA."""

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
        if (self.features is None) == (self.shards is None):
            raise UsageError("shards, features: give one of them: --features STORE or --shards FOLDER (with --encoder)")
        if self.components < 1 or self.frames_per_video < 1:
            raise UsageError("components, frames_per_video: both must be at least 1")
        if self.shards is not None:
            self.needs_encoder()
        elif self.encoder:
            raise UsageError("encoder: the frames of --features are encoded already; leave --encoder and its flags out")
