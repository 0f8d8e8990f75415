#!/usr/bin/env python3
"""Decoding with DALI against its two limits: the hardware decoder alone, and ResNet-50 in bfloat16 on the same GPU.

    python benchmarks/dali_gpu.py                      # on a machine with a GPU
    python benchmarks/dali_gpu.py --device cpu         # a small run of the same code without one
    python benchmarks/dali_gpu.py --make clips         # only makes the clips, to take them to a machine without PyAV

From encoded bytes in memory to scaled pictures in memory (`DaliDecoder.decode`: decode, resize, colours, copy), at one
picture a second and all pictures. The first limit is the same decoder without resize, colours and copy, asked for the
same pictures; the second is the forward pass on 224 x 224 pictures that lie on the GPU. They take turns; the best of
each counts. A share of 0.8 or more of the lower limit is what is asked for.

It needs numpy and DALI; PyAV for making clips (or --clips), torch and torchvision for the second limit.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("reelkin") is None:  # a checkout that is not installed
    spec = importlib.util.spec_from_file_location(
        "reelkin", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    sys.modules["reelkin"] = importlib.util.module_from_spec(spec)

from reelkin.core.errors import ReelkinError  # noqa: E402
from reelkin.extract.decoding.batching import BUDGETS, Budget, Need, form_batches  # noqa: E402
from reelkin.extract.decoding.dali_graph import DaliDecoder, DaliError, DaliSample  # noqa: E402

ASKED = 0.8
SHORT_SIDE = 256


@dataclass(frozen=True)
class Kind:
    """A clip to make: pictures of ``rate`` a second."""

    name: str
    codec: str
    extension: str
    width: int
    height: int
    seconds: int
    rate: int
    options: dict[str, str]
    pix_fmt: str = "yuv420p"

    @property
    def pictures(self) -> int:
        return self.seconds * self.rate

    @property
    def scaled(self) -> tuple[int, int]:
        return round(self.width * SHORT_SIDE / self.height), SHORT_SIDE


X264 = {"preset": "veryfast", "crf": "23", "g": "250"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0", "g": "240"}
KINDS = {
    "gpu": [
        Kind("h264_1080p", "libx264", "mp4", 1920, 1080, 10, 30, X264),
        Kind("h264_480p", "libx264", "mp4", 854, 480, 20, 30, X264),
        Kind("vp9_480p", "libvpx-vp9", "webm", 854, 480, 20, 30, VP9),
        Kind("mjpeg_480p", "mjpeg", "mp4", 854, 480, 5, 30, {}, "yuvj420p"),
    ],
    "cpu": [
        Kind("vp9_small", "libvpx-vp9", "webm", 320, 180, 3, 10, VP9),
        Kind("mjpeg_small", "mjpeg", "mp4", 320, 180, 3, 10, {}, "yuvj420p"),
    ],
}


def make_clip(kind: Kind, folder: Path) -> Path:
    """Texture that moves, with some noise: about the bit rate of web video."""
    import av

    path = folder / f"{kind.name}.{kind.extension}"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (kind.height // 16 + 1, kind.width // 16 + 1, 3))
    texture = coarse.repeat(16, 0).repeat(16, 1)[: kind.height, : kind.width]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(kind.codec, rate=kind.rate, options=kind.options)
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, kind.pix_fmt
        for number in range(kind.pictures):
            moved = np.roll(texture, (number, 2 * number), (0, 1)) + rng.integers(-4, 5, (kind.height, 1, 1))
            frame = av.VideoFrame.from_ndarray(np.clip(moved, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def batches_of(kind: Kind, data: np.ndarray, indices: np.ndarray, clips: int, budget: Budget) -> list[list[DaliSample]]:
    """The batches that the decoding process would make of so many clips."""
    width, height = kind.scaled
    need = Need(indices, 3 * (kind.width * kind.height + 2 * width * height), len(data))
    return [
        [DaliSample(data, indices[part.first : part.last], kind.width, kind.height, width, height) for part in batch]
        for batch in form_batches([need] * clips, budget)
    ]


class DecoderAlone:
    """The same operator with nothing behind it."""

    def __init__(self, device: str, threads: int, most_samples: int) -> None:
        from nvidia import dali
        from nvidia.dali import fn

        gpu = device == "gpu"
        self._pipeline: Any = dali.Pipeline(
            batch_size=most_samples, num_threads=threads, device_id=0 if gpu else None, prefetch_queue_depth=1
        )
        with self._pipeline:
            data = fn.external_source(name="data", dtype=dali.types.UINT8, ndim=1, no_copy=True)
            frames = fn.external_source(name="frames", dtype=dali.types.INT32, ndim=1, no_copy=True)
            decoded = fn.decoders.video(
                data, device="mixed" if gpu else "cpu", frames=frames, pad_mode="none", build_index=True, affine=False
            )
            self._pipeline.set_outputs(decoded.shape())  # what is not asked for is not copied
        self._pipeline.build()

    def decode(self, batch: Sequence[DaliSample]) -> None:
        self._pipeline.feed_input("data", [sample.data for sample in batch])
        self._pipeline.feed_input("frames", [sample.indices.astype(np.int32) for sample in batch])
        (shapes,) = self._pipeline.run()
        assert all(int(np.asarray(shapes.at(n))[0]) == len(sample.indices) for n, sample in enumerate(batch))


def rate(decode: Callable[[list[DaliSample]], Any], batches: list[list[DaliSample]]) -> float:
    """Pictures per second."""
    pictures = sum(len(sample.indices) for batch in batches for sample in batch)
    began = time.perf_counter()
    for batch in batches:
        decode(batch)
    return pictures / (time.perf_counter() - began)


def resnet_rate(turns: int) -> float | None:
    """Pictures per second that ResNet-50 takes in bfloat16 on the GPU; None where it cannot be measured."""
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError) as error:
        print(f"ResNet-50 is not measured: {error}")
        return None
    if not torch.cuda.is_available():
        return None
    model = (
        torchvision.models.resnet50(weights=None).eval().to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    )
    pictures = torch.randn((256, 3, 224, 224), device="cuda", dtype=torch.bfloat16)
    pictures = pictures.to(memory_format=torch.channels_last)
    best, count = 0.0, 20
    with torch.inference_mode():
        for _ in range(turns + 1):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(count):
                model(pictures)
            torch.cuda.synchronize()
            best = max(best, count * len(pictures) / (time.perf_counter() - began))
    return best


def measure(kind: Kind, path: Path, every: bool, options: argparse.Namespace, resnet: float | None) -> bool | None:
    """Print one line; whether the share is what is asked for, None when DALI does not decode it."""
    indices = np.arange(0, kind.pictures, 1 if every else kind.rate, dtype=np.int64)
    budget = BUDGETS[options.device]
    what = f"{kind.name}, {'all pictures' if every else 'one a second'}"
    try:
        data = np.fromfile(path, np.uint8)
        batches = batches_of(kind, data, indices, options.clips, budget)
        ours = DaliDecoder(options.device, threads=options.threads, most_samples=budget.samples)
        alone = DecoderAlone(options.device, options.threads, budget.samples)
        rates: dict[str, list[float]] = {"ours": [], "alone": []}
        for turn in range(options.turns + 1):
            for name, decode in (("ours", ours.decode), ("alone", alone.decode)):
                found = rate(decode, batches)
                if turn:  # the first turn warms up
                    rates[name].append(found)
    except (DaliError, RuntimeError) as error:
        print(f"{what}: DALI does not decode it here: {' '.join(str(error).split())[:300]}")
        return None
    best, limit = max(rates["ours"]), max(rates["alone"])
    lower = min(limit, resnet) if resnet else limit
    good = best >= ASKED * lower
    passed = best * (1 if every else kind.rate)
    print(
        f"{what}: {best:.0f} pictures/s ({passed:.0f} of the video), decoder alone {limit:.0f}, "
        f"share of the lower limit {best / lower:.2f}: {'good' if good else f'BELOW {ASKED}'}",
        flush=True,
    )
    return good


def main() -> int:
    """Run it; 1 when DALI decodes nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--make", type=Path, help="folder for the clips; nothing is measured")
    parser.add_argument("--clips", dest="folder", type=Path, help="folder with the clips that --make has made")
    parser.add_argument("--count", dest="clips", type=int, default=None, help="clips in a pass; default 32, on a CPU 4")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of DALI")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    options.clips = options.clips or (32 if options.device == "gpu" else 4)
    kinds = KINDS[options.device]
    if options.make:
        options.make.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            path = make_clip(kind, options.make)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {8e-6 * path.stat().st_size / kind.seconds:.1f} Mb/s")
        return 0
    try:
        DaliDecoder(options.device)
    except ReelkinError as error:
        print(f"error: {error}")
        return 1
    resnet = resnet_rate(options.turns) if options.device == "gpu" else None
    if resnet:
        print(f"ResNet-50, bfloat16: {resnet:.0f} pictures/s")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        verdicts = [
            measure(kind, make_clip(kind, folder), every, options, resnet) for kind in kinds for every in (False, True)
        ]
    known = [verdict for verdict in verdicts if verdict is not None]
    print(f"{sum(known)} of {len(known)} reach {ASKED} of the lower limit; {len(verdicts) - len(known)} not decoded")
    return 0 if known else 1


if __name__ == "__main__":
    raise SystemExit(main())
