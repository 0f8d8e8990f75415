#!/usr/bin/env python3
"""From raw videos to ResNet-50 iMAC features: the published TCA way against ours, in turns, in one run.

    python benchmarks/published_preprocessing.py

The published way, written from its description at its best: OpenCV decodes every picture and keeps one a second (a
process for each core), bicubic to a short side of 256, centre crop, an array of each video on the disk; then one video
at a time is loaded, cropped to 224, normalised and put through torchvision's ResNet-50 in eager float32 on all cores,
with iMAC over its four stages, and the features saved. Videos of 600 pictures and more go in halves. Its kernels
are OpenCV's and torch's own; the share of the
machine's matrix-multiplication peak that its forward pass reaches is printed.

Ours is what users run: shards from the raw videos, then extraction into a store, with the same network. Both end with
features on the disk; weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import numpy as np
import torch
from clips import make_clip

from reelkin.core.cores import use_share_of_cores
from reelkin.core.engine.single import SingleEngine
from reelkin.extract.describe import Describer
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.running.job import Job
from reelkin.extract.running.pipeline import extract_store
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.reader import ShardSet

MACS = 4.09e9  # of ResNet-50 for a picture of 224 x 224, without its classifier
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def save_frames(job: tuple[Path, Path]) -> int:
    """Step one: pictures of a video, one a second by counting, as an array on the disk."""
    cv2.setNumThreads(1)  # a process for each core
    source, target = job
    capture = cv2.VideoCapture(str(source))
    rate = capture.get(cv2.CAP_PROP_FPS)
    step = round(25 if rate > 144 or not rate else rate)
    frames, number = [], 0
    while True:
        good, frame = capture.read()
        if not good:
            break
        if number == 0 or (number + 1) % step == 0:
            frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            height, width = frame.shape[:2]
            scale = 256 / min(height, width)
            size = (max(256, round(width * scale)), max(256, round(height * scale)))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
            top, left = (frame.shape[0] - 256) // 2, (frame.shape[1] - 256) // 2
            frames.append(frame[top : top + 256, left : left + 256])
        number += 1
    capture.release()
    if frames:
        frames.append(frames[-1])
        np.save(target, np.stack(frames))
    return len(frames)


class PublishedFeatures:
    """Step two: torchvision's ResNet-50, hooks on its stages, iMAC; eager, float32."""

    def __init__(self) -> None:
        from reelkin.extract.encoders.torchvision_import import import_torchvision

        self._maps: list[torch.Tensor] = []
        self._network = import_torchvision().models.resnet50(weights=None).eval()
        for name in ("layer1", "layer2", "layer3", "layer4"):
            self._network.get_submodule(name).register_forward_hook(lambda *args: self._maps.append(args[2]))

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        self._maps.clear()
        self._network(pictures)
        normalise = torch.nn.functional.normalize
        pooled = [normalise(normalise(each, dim=1).amax(dim=(2, 3)), dim=1) for each in self._maps]
        return torch.cat(pooled, dim=1)


def published(videos: list[Path], folder: Path, network: PublishedFeatures, pool: Pool) -> tuple[float, float, int]:
    """Both steps; seconds of each, and the pictures."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "frames").mkdir(parents=True)
    (folder / "features").mkdir()
    began = time.perf_counter()
    jobs = [(path, folder / "frames" / f"{number}.npy") for number, path in enumerate(videos)]
    frames = sum(pool.imap_unordered(save_frames, jobs))
    decoding = time.perf_counter() - began
    began = time.perf_counter()
    for _, path in jobs:
        pictures = np.load(path)[:, 16:240, 16:240]
        batch = torch.from_numpy((pictures.astype(np.float32) / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()
        parts = batch.split(len(batch) // 2) if len(batch) >= 600 else [batch]
        features = torch.cat([network(part) for part in parts]).numpy()
        np.save(folder / "features" / path.name, features)
    return decoding, time.perf_counter() - began, frames


def ours(source: Path, folder: Path, describer: Describer) -> tuple[float, float, int]:
    """Shards, then a store; seconds of each, and the pictures."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    build(BuildConfig((source,), folder / "shards"))
    building = time.perf_counter() - began
    began = time.perf_counter()
    job = Job(ShardSet.open(folder / "shards"), folder / "store")
    store = extract_store(job, describer, SingleEngine(torch.device("cpu")))
    return building, time.perf_counter() - began, sum(block["num_frames"] for block in store.info["blocks"])


def peak(dtype: torch.dtype, side: int = 2048) -> float:
    """Multiply-adds a second of a matrix product, the best of some."""
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, b)
        best = max(best, side**3 / (time.perf_counter() - began))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8, help="made videos, 854 x 480, 25 pictures a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    cores = use_share_of_cores()
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "raw").mkdir()
        videos = [
            make_clip(folder / "raw" / f"{number}.mp4", seconds=options.seconds, seed=number)
            for number in range(options.videos)
        ]
        network = PublishedFeatures()
        network(torch.zeros(4, 3, 224, 224))
        spec = EncoderSpec("resnet50", "random", precision="auto")
        # What starting processes takes is left out for the published way.
        context = multiprocessing.get_context("spawn")
        with Describer(build_encoder(spec)) as describer, context.Pool(cores) as pool:
            pool.map(time.sleep, [0.5] * cores)
            describer.encoder(np.zeros((32, 224, 224, 3), np.uint8))
            for turn in range(options.turns):
                speed = peak(torch.float32)
                decoding, forward, frames = published(videos, folder / "published", network, pool)
                building, extracting, our_frames = ours(folder / "raw", folder / "ours", describer)
                share = frames * MACS / forward / speed
                ratios.append((decoding + forward) / (building + extracting))
                precision = describer.encoder.info["precision"]
                print(
                    f"turn {turn}: published {decoding:.1f} s of decoding + {forward:.1f} s of ResNet-50 ({frames} "
                    f"pictures, {share:.0%} of the float32 peak); ours {building:.1f} s of shards + {extracting:.1f} s "
                    f"of extraction ({our_frames} pictures, {precision}): {ratios[-1]:.2f} times"
                )
    print(f"{os.cpu_count()} cores; {statistics.median(ratios):.2f} times the videos a second; asked 3")


if __name__ == "__main__":
    main()
