#!/usr/bin/env python3
"""How fast encoders run, each way of running them against the plain one, in turns, in one run.

    python benchmarks/encoder_speed.py --script ENCODER.torchscript.pt --videos FOLDER
    python benchmarks/encoder_speed.py --encoder torchvision:convnext_tiny --compile

The plain way is the network as its library gives it: float32, eager (a TorchScript file: as torch.jit.load gives it).
Frames are pictures of real videos where a folder is given, else made ones. Beside the ratio stand the cosine of each
frame's descriptor with the plain one, and the share of the machine's peak: multiply-adds are counted in the operators
that the plain network runs, and the peak is that of torch.mm on square matrices, measured in the same turns. The line
that extraction takes by itself is marked.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reelkin.core.errors import DataError
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.encoders import EncoderSpec
from reelkin.extract.encoders.building import RawEncoder, prepare
from reelkin.extract.encoders.frames import to_network_input
from reelkin.extract.encoders.tuning import Really, check_pictures, native_half, tune
from reelkin.shards.video.decode import iter_frames
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Sampling, choose

MATRIX = 2048


def real_pictures(videos: Path | None, geometry: Geometry, count: int) -> np.ndarray:
    """uint8 [count, crop, crop, 3]: up to four pictures of every video, then again from the first."""
    found: list[np.ndarray] = []
    for path in sorted(videos.iterdir()) if videos else []:
        try:
            plan = make_plan(path)
            samples = choose(plan, Sampling("times", 0.5))
            some = samples.take(np.linspace(0, len(samples) - 1, min(4, len(samples))).astype(np.int64))
            frames = iter_frames(path, plan=plan, samples=some, short_side=geometry.short_side)
            found.extend(np.ascontiguousarray(geometry.cut(frame.picture)) for frame in frames)
        except DataError:
            continue
    if not found:
        return check_pictures(count, geometry.crop, geometry.crop).numpy()
    order = np.random.default_rng(0).permutation(len(found))
    return np.stack([found[order[index % len(found)]] for index in range(count)])


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time of one call; on a GPU by its own events."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3


def product(dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A square matrix product."""
    side = MATRIX if device.type == "cpu" else 4 * MATRIX
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: torch.mm(a, b)


def ways(make: Callable[[], RawEncoder], example: Tensor, half: Really, compiled: bool) -> dict[str, Callable]:
    """The ways of running a network; each gets a copy of its own."""
    settings: dict[str, dict] = {
        "channels last, folded, float32": {"asked": "float32", "one_size": False},
        "fused graph, float32": {"asked": "float32"},
    }
    if half != "float32":
        settings[f"channels last, folded, autocast {half}"] = {"asked": half, "one_size": False}
        settings[f"fused graph, {half}"] = {"asked": half}
    if compiled:
        settings["torch.compile, float32"] = {"asked": "float32", "compile": True}
        settings[f"torch.compile, {half}"] = {"asked": half, "compile": True}
    found: dict[str, Callable] = {}
    for name, flags in settings.items():
        tuned = tune(make().network, example, **flags)
        found[f"{name} ({tuned.how})"] = tuned
    taken = tune(make().network, example)
    found[f"as extraction takes it: {taken.how}, {taken.precision}"] = taken
    return found


def measure(name: str, spec: EncoderSpec, options: argparse.Namespace, device: torch.device) -> None:
    """Print the table of one encoder."""
    raw = prepare(spec, device)
    first = copy.deepcopy(raw) if spec.name != "torchscript" else None
    make = (lambda: copy.deepcopy(first)) if first else (lambda: prepare(spec, device))
    length = raw.window.frames
    batch = options.batch if length == 1 else options.clips
    geometry = raw.preprocessing.geometry
    pictures = real_pictures(options.videos, geometry, batch * length)
    if length > 1:
        pictures = pictures.reshape(batch, length, *pictures.shape[1:])
    x = to_network_input(pictures, raw.preprocessing.input, device)
    plain_input = x.contiguous()
    half = native_half(device)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode():
        expected = raw.network(plain_input).float()
        with torch.no_grad(), counter:
            raw.network(plain_input[:1])
    macs = counter.get_total_flops() / 2
    runs: dict[str, Callable[[], Tensor]] = {"plain": lambda: raw.network(plain_input)}
    for label, tuned in ways(make, raw.check_input(device), half, options.compile).items():
        runs[label] = lambda tuned=tuned: tuned(x)
    peaks = {"float32": product(torch.float32, device), half: product(getattr(torch, half), device)}
    best: dict[str, float] = {}
    cosines: dict[str, Tensor] = {}
    with torch.inference_mode():
        for turn in range(options.turns + 1):
            for label, run in {**runs, **{f"mm {key}": value for key, value in peaks.items()}}.items():
                taken = seconds(run, device)
                if turn:  # the first one warms up
                    best[label] = min(best.get(label, taken), taken)
        for label, run in runs.items():
            found = run().float()
            assert torch.equal(found, run().float()), f"{label}: the same batch gave other numbers"
            cosines[label] = torch.nn.functional.cosine_similarity(found, expected)
    side = MATRIX if device.type == "cpu" else 4 * MATRIX
    peak = {key: side**3 / best[f"mm {key}"] for key in peaks}
    shown = ", ".join(f"{key} {2 * value / 1e9:.0f} GFLOP/s" for key, value in peak.items())
    what = "frames" if length == 1 else f"clips of {length}"
    print(f"\n{name}: {batch} {what} at {geometry.crop} x {geometry.crop}, {macs / 1e9:.2f} G multiply-adds each")
    print(f"torch.mm of {side} x {side}: {shown}")
    print(f"{'':62s} {what + '/s':>14s} {'ratio':>6s} {'share of peak':>14s} {'least cosine':>12s} {'mean':>9s}")
    for label in runs:
        against = half if half in label else "float32"
        share = macs * batch / best[label] / peak[against]
        cosine = cosines[label]
        print(
            f"{label:62s} {batch / best[label]:14.1f} {best['plain'] / best[label]:6.2f} {share:13.0%} "
            f"{float(cosine.min()):13.6f} {float(cosine.mean()):9.6f}",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared" / "videos"
    parser.add_argument("--encoder", action="append", default=[], help="further names, as extract/run.py takes them")
    parser.add_argument("--weights", default="random", help="of ResNet-50 and the further ones")
    parser.add_argument("--script", type=Path, help="a TorchScript encoder")
    parser.add_argument("--only", action="store_true", help="leave out ResNet-50 and r3d_18")
    parser.add_argument("--videos", type=Path, default=shared if shared.is_dir() else None)
    parser.add_argument("--batch", type=int, default=32, help="frames in a batch")
    parser.add_argument("--clips", type=int, default=4, help="clips in a batch")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {device}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    todo = {} if options.only else {"ResNet-50, iMAC": EncoderSpec("resnet50", options.weights)}
    if options.script:
        todo[options.script.name] = EncoderSpec("torchscript", str(options.script))
    if not options.only:
        todo["r3d_18"] = EncoderSpec("r3d_18", "random")
    for name in options.encoder:
        todo[name] = EncoderSpec(name, options.weights)
    for name, spec in todo.items():
        measure(name, spec, options, device)


if __name__ == "__main__":
    main()
