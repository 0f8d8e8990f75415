#!/usr/bin/env python3
"""Memory of an extraction over ten thousand videos: of the rank and of its decoding children.

    python benchmarks/extract_memory.py --count 10000

Memory is sampled from outside while the extraction runs (resident set, one number for the rank and one for all children
together), with the number of videos done. What counts is the growth from the second fifth of the videos, when
everything is loaded, to the last fifth: largest against largest. The encoder is tiny, so that decoding is the work.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from build_memory import print_growth, sources, watched

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
        samples, seconds = watched(line, folder / "store", "features-*.json", options.shard_videos)
        frames = sum(block["num_frames"] for block in read_json(folder / "store" / "store.json")["blocks"])
        print(f"{options.count} videos from {len(originals)} files, {frames} frames in {seconds:.0f} s")
        print_growth("rank", samples, options.count)


if __name__ == "__main__":
    main()
