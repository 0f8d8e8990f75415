#!/usr/bin/env python3
"""Memory of an extraction over ten thousand videos: of the rank and of its decoding children.

    python benchmarks/extract_memory.py --count 10000

Memory is sampled from outside while the extraction runs (resident set, one number for the rank and one for all children
together), with the number of videos done. What counts is the growth from the second fifth of the videos, when
everything is loaded, to the last fifth: largest against largest. The encoder is tiny, so that decoding is the work.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from build_memory import children, resident_kilobytes, sources

from reelkin.core.files import read_json
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig

SCRIPT = Path(__file__).resolve().parents[1] / "extract" / "run.py"


class MeanColours(torch.nn.Module):
    """12 numbers a frame."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, H, W] -> float32 [N, 12]."""
        return torch.nn.functional.adaptive_avg_pool2d(frames.float() / 255, 2).flatten(1)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared" / "videos"
    parser.add_argument("--videos", type=Path, default=shared if shared.is_dir() else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--shard-videos", type=int, default=250)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = sources(folder, options.videos, 300_000)
        lines = [f"v{n:06d},{originals[n % len(originals)]}" for n in range(options.count)]
        (folder / "list.csv").write_text("\n".join(["video_id,path", *lines]) + "\n")
        build(BuildConfig((folder / "list.csv",), folder / "shards", shard_videos=options.shard_videos))
        torch.jit.script(MeanColours()).save(str(folder / "tiny.pt"))
        line = [sys.executable, str(SCRIPT), "--shards", str(folder / "shards"), "--output", str(folder / "store")]
        line += ["--encoder", "torchscript", "--weights", str(folder / "tiny.pt"), "--size", "64", "--crop", "48"]
        started = time.perf_counter()
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        samples: list[tuple[int, int, int]] = []
        while process.poll() is None:
            done = len(list((folder / "store").glob("features-*.json"))) * options.shard_videos
            inside = sum(resident_kilobytes(child) for child in children(process.pid))
            samples.append((done, resident_kilobytes(process.pid), inside))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        if process.returncode:
            sys.exit(f"the extraction ended with {process.returncode}")
        frames = sum(block["num_frames"] for block in read_json(folder / "store" / "store.json")["blocks"])
        print(f"{options.count} videos from {len(originals)} files, {frames} frames in {seconds:.0f} s")
        fifth = options.count / 5
        for what, column in (("rank", 1), ("children", 2)):
            early = max(sample[column] for sample in samples if fifth <= sample[0] < 2 * fifth)
            late = max(sample[column] for sample in samples if 4 * fifth <= sample[0] < options.count)
            growth = f"{100 * (late / early - 1):+.2f} %"
            print(f"{what}: {early / 1e3:.1f} MB in the second fifth, {late / 1e3:.1f} MB in the last: {growth}")
        print(f"peak of the rank, tables included: {max(sample[1] for sample in samples) / 1e3:.1f} MB")


if __name__ == "__main__":
    main()
