#!/usr/bin/env python3
"""Extraction against the time that its two halves take alone: decoding, and the encoder's forward pass.

    python benchmarks/extract_speed.py --encoder resnet50 --weights random
    python benchmarks/extract_speed.py --encoder torchscript --weights ENCODER.pt --videos FOLDER

Both halves run with the settings of the whole, each on all cores: decoding with the same child processes, whose
pictures are thrown away; the forward pass on pictures that lie in memory, a batch on each core. No extraction on these
cores can take less than the sum, unless it decodes or computes less. The three take turns; the ratio is taken within
each turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from clips import make_clip

from reelkin.core.cores import use_share_of_cores
from reelkin.extract.decoding.tasks import Chunk, Source
from reelkin.extract.describe import Describer
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.shards.video.sampling import Sampling


def clips(folder: Path, videos: Path | None, count: int) -> list[Path]:
    """Video files: those of a folder again and again, or made ones of 854 x 480, 20 s, 25 pictures a second."""
    if videos is None:
        originals = []
        for seed in range(3):
            originals.append(make_clip(folder / f"{seed}.mp4", seconds=20, seed=seed))
    else:
        originals = sorted(path for path in videos.iterdir() if path.suffix in (".mp4", ".mkv", ".webm", ".mov"))
    return [originals[number % len(originals)] for number in range(count)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--batch-frames", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    cores = use_share_of_cores()
    spec = EncoderSpec(options.encoder, options.weights, precision=options.precision)
    with tempfile.TemporaryDirectory() as scratch:
        files = clips(Path(scratch), options.videos, options.clips)
        sources = [Source(str(number), path) for number, path in enumerate(files)]
        settings = {"batch_frames": options.batch_frames, "workers": options.workers}
        with Describer(build_encoder(spec), sampling=Sampling(fps=options.fps), **settings) as describer:
            pictures = [item.frames.copy() for _, item in describer.pool.decode(sources) if isinstance(item, Chunk)]
            frames = sum(map(len, pictures))
            batches = batched(pictures, describer.batch_frames)
            describer.encoder(batches[0])
            print(f"{len(files)} clips, {frames} frames, {cores} cores, {describer.encoder.info['precision']}")
            ratios = []
            for turn in range(options.turns):
                began = time.perf_counter()
                for _ in describer.pool.decode(sources):
                    pass
                decode = time.perf_counter() - began
                began = time.perf_counter()
                with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as threads:
                    list(threads.map(describer.encoder, batches))
                forward = time.perf_counter() - began
                began = time.perf_counter()
                made_frames = sum(len(described.features) for described in describer.describe(sources))
                whole = time.perf_counter() - began
                assert made_frames == frames
                ratios.append((decode + forward) / whole)
                print(
                    f"turn {turn}: decode {decode:.2f} s, forward {forward:.2f} s, extraction {whole:.2f} s "
                    f"({frames / whole:.1f} frames/s): {ratios[-1]:.2f} of the bound"
                )
    print(f"extraction reaches {statistics.median(ratios):.2f} of frames / (decode + forward); asked 0.9")


def batched(pictures: list[np.ndarray], size: int) -> list[np.ndarray]:
    """uint8 [size, H, W, 3] of one shape each, as an extraction forms them."""
    batches: list[np.ndarray] = []
    held: list[np.ndarray] = []
    for chunk in pictures:
        for picture in chunk:
            if held and (held[0].shape != picture.shape or len(held) == size):
                batches.append(np.stack(held))
                held = []
            held.append(picture)
    return [*batches, np.stack(held)]


if __name__ == "__main__":
    main()
