"""Which clips DALI decodes; the others, PyAV decodes from the start.

What decides is known before anything is decoded (`DecodingPlan`), and what the device can do. A clip goes to DALI only
when its frame numbers are certain, since DALI takes numbers, and a wrong number gives a wrong picture without an error.
DALI's codecs on a CPU: VP8, VP9 and MJPEG. On a GPU: what NVDEC decodes (NVIDIA's Video Codec SDK 13.0, application
note, table of hardware capabilities; sizes from its programming guide) and DALI hands to it (its
``frames_decoder_gpu.cc``: no MJPEG). Where these leave room, PyAV gets the clip. None of it was run on a GPU.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ...core.errors import ReelkinError
from ...shards.video.probe import DecodingPlan
from .batching import BUDGETS, Budget
from .dali_graph import MATRICES, Device
from .geometry import Scaling

CONTAINERS = ("mp4", "mov", "3gp", "mkv", "webm")
"""DALI opens others too, playlists among them, whose files it would read. These cannot be taken for one."""

_CPU_CODECS = ("vp8", "vp9", "mjpeg")
_EIGHT_BIT, _TEN_BIT = ("yuv420p", "yuvj420p"), ("yuv420p10le",)
_AV1_SINCE = (8, 6)  # compute capability: GA10x; GA100 (8.0) and Hopper (9.0) have none
_WITHOUT_AV1 = ((8, 7), (9, 0))
_BLACKWELL = (10, 0)
_8K = (8192, 8192)


@dataclass(frozen=True)
class Codec:
    """What the hardware takes of a codec.

    Attributes:
        pix_fmts: FFmpeg's names of the pixel formats.
        profiles: FFmpeg's names of the profiles; empty for any.
        smallest: least (width, height).
        largest: greatest (width, height).
    """

    pix_fmts: tuple[str, ...]
    profiles: tuple[str, ...] = ()
    smallest: tuple[int, int] = (48, 16)
    largest: tuple[int, int] = (4096, 4096)


@dataclass(frozen=True)
class Hardware:
    """A device that DALI may decode on.

    Attributes:
        device: "cpu" or "gpu".
        capability: CUDA compute capability of the GPU, (0, 0) for a CPU.
        name: for messages.
        memory_bytes: of the GPU, 0 for a CPU.
    """

    device: Device = "cpu"
    capability: tuple[int, int] = (0, 0)
    name: str = "the CPU"
    memory_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Hardware:
        """What `as_dict` gave."""
        return cls(**{**values, "capability": tuple(values["capability"])})

    @classmethod
    def gpu(cls, device_id: int = 0) -> Hardware:
        """What torch says of a GPU. Raises ReelkinError when there is none."""
        import torch

        if not torch.cuda.is_available() or device_id >= torch.cuda.device_count():
            raise ReelkinError(f"there is no GPU {device_id}; torch sees {torch.cuda.device_count()}")
        found = torch.cuda.get_device_properties(device_id)
        return cls("gpu", (found.major, found.minor), found.name, found.total_memory)

    @property
    def budget(self) -> Budget:
        """What DALI may hold at once; on a GPU that is also the encoder's at most an eighth of the memory."""
        usual = BUDGETS[self.device]
        return replace(usual, bytes=min(usual.bytes, self.memory_bytes // 8)) if self.memory_bytes else usual

    @property
    def codecs(self) -> dict[str, Codec]:
        """What the GPU's decoder takes, by FFmpeg's names; empty on a CPU."""
        if self.device == "cpu":
            return {}
        blackwell = self.capability >= _BLACKWELL
        h264 = ("Baseline", "Constrained Baseline", "Main", "High")
        codecs = {
            "h264": Codec(_EIGHT_BIT, h264, largest=_8K if blackwell else (4096, 4096)),
            "hevc": Codec(_EIGHT_BIT + _TEN_BIT, ("Main", "Main 10", "Main Still Picture"), (144, 144), _8K),
            "vp8": Codec(_EIGHT_BIT),
            "vp9": Codec(_EIGHT_BIT, ("Profile 0",), (128, 128), _8K),
            "mpeg4": Codec(_EIGHT_BIT, ("Simple Profile", "Advanced Simple Profile"), largest=(2048, 1024)),
        }
        if self.capability >= _AV1_SINCE and self.capability not in _WITHOUT_AV1:
            codecs["av1"] = Codec(_EIGHT_BIT + _TEN_BIT, ("Main",), (128, 128), _8K)
        return codecs


@dataclass(frozen=True)
class ClipFacts:
    """What of a clip decides; see `Probe` and `DecodingPlan` for the values.

    Attributes:
        doubts: why frame numbers, or the size of the pictures, are not certain; "" when they are.
    """

    container: str
    codec: str
    profile: str
    pix_fmt: str
    width: int
    height: int
    colour_matrix: int
    doubts: str

    @classmethod
    def of(cls, plan: DecodingPlan) -> ClipFacts:
        """The facts of a clip."""
        probe = plan.probe
        doubts = [str(quirk) for quirk in sorted(plan.quirks)]
        if plan.num_hidden:
            doubts.append(f"{plan.num_hidden} of its pictures are not shown")
        if plan.ordinal:
            doubts.append("its pictures bear no times of their own")
        if plan.damage is not None:
            doubts.append(f"it is damaged ({plan.damage})")
        return cls(
            probe.container,
            probe.codec,
            probe.profile,
            probe.pix_fmt,
            probe.width,
            probe.height,
            plan.colour_matrix,
            "; ".join(doubts),
        )


def why_not_dali(facts: ClipFacts, hardware: Hardware, scaling: Scaling = "area") -> str:
    """Why PyAV must take a clip, or "" when DALI can.

    A clip that DALI is given here may still fail there; then PyAV takes it after all.
    """
    if scaling != "area":
        return f"DALI does not scale as --scaling {scaling} does"
    if facts.container not in CONTAINERS:
        return f"the container is {facts.container}; DALI is given {', '.join(CONTAINERS)} only"
    if facts.doubts:
        return facts.doubts
    if facts.colour_matrix not in MATRICES:
        return f"its colours are coded with matrix {facts.colour_matrix}"
    if hardware.device == "cpu":
        if facts.codec not in _CPU_CODECS:
            return f"{facts.codec}: without a GPU, DALI decodes {', '.join(_CPU_CODECS)} only"
        return "" if facts.pix_fmt.startswith("yuv") else f"its pixels are {facts.pix_fmt}"
    return _why_not_hardware(facts, hardware)


def _why_not_hardware(facts: ClipFacts, hardware: Hardware) -> str:
    codec = hardware.codecs.get(facts.codec)
    if codec is None:
        return f"{facts.codec}: the decoder of {hardware.name} has {', '.join(hardware.codecs)}"
    if facts.pix_fmt not in codec.pix_fmts or (codec.profiles and facts.profile not in codec.profiles):
        what = " ".join(part for part in (facts.codec, facts.profile, facts.pix_fmt) if part)
        return f"{what}: the decoder of {hardware.name} has {facts.codec} in {', '.join(codec.pix_fmts)} only"
    # DALI's conversion to RGB works on blocks of 2x2 and writes past an odd edge (its color_space.cu).
    if facts.width % 2 or facts.height % 2:
        return f"{facts.width}x{facts.height}: odd sizes are not DALI's on a GPU"
    (least_w, least_h), (most_w, most_h) = codec.smallest, codec.largest
    if not (least_w <= facts.width <= most_w and least_h <= facts.height <= most_h):
        limits = f"{least_w}x{least_h} to {most_w}x{most_h}"
        return f"{facts.width}x{facts.height}: the decoder of {hardware.name} takes {facts.codec} of {limits}"
    return ""
