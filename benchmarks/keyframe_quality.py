#!/usr/bin/env python3
"""What sampling keyframes costs in retrieval: copies at three strengths, found with features of either sampling.

    python benchmarks/keyframe_quality.py --videos FOLDER --groups MANIFEST.csv --weights ENCODER.pt

Edited copies of every video (the frozen strengths of shards/edits.py) are searched for among all videos and copies,
with pictures at 1 per second and with keyframes. The scores are those of evaluate/run.py without a model: chance, mean
pooling, and frame by frame, with 95 % intervals over sources.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from reelkin.core.files import read_json
from reelkin.extract.store import FeatureStore

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *arguments: object) -> None:
    """One of the stages' commands."""
    subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--groups", type=Path, required=True, help="CSV with the columns file and group")
    parser.add_argument("--weights", type=Path, required=True, help="a TorchScript encoder")
    parser.add_argument("--per-strength", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open(options.groups, newline="") as file, open(folder / "groups.csv", "w", newline="") as target:
            rows = [(Path(row["file"]).with_suffix("").as_posix(), row["group"]) for row in csv.DictReader(file)]
            csv.writer(target).writerows([("video_id", "group"), *((video, group or video) for video, group in rows)])
        run(
            "shards/edits.py",
            "--videos",
            options.videos,
            "--output",
            folder / "copies",
            "--per-strength",
            options.per_strength,
        )
        sources = ("--videos", options.videos, folder / "copies", "--max-reject-share", 1)
        run("shards/build.py", *sources, "--output", folder / "shards")
        print("| sampling | pictures | method | easy | medium | hard |\n|---|---|---|---|---|---|")
        for sampling in ("times", "keyframes"):
            encoder = ("--encoder", "torchscript", "--weights", options.weights)
            shards = ("--shards", folder / "shards", "--sampling", sampling, "--max-reject-share", 1)
            run("extract/run.py", *shards, *encoder, "--output", folder / sampling)
            truth = ("--ground-truth", folder / "copies/edits.csv", "--groups", folder / "groups.csv")
            run("evaluate/run.py", *truth, "--features", folder / sampling, "--output", folder / f"{sampling}-results")
            frames = sum(block.num_frames for block in FeatureStore.open(folder / sampling).blocks)
            tasks = read_json(folder / f"{sampling}-results" / "results.json")["tasks"]
            for place, method in enumerate(tasks[0]["methods"]):
                scores = [task["methods"][place] for task in tasks]
                cells = [f"{score['map']:.3f} ({score['low']:.2f} to {score['high']:.2f})" for score in scores]
                print(f"| {sampling} | {frames} | {method['method']} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
