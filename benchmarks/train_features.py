#!/usr/bin/env python3
"""Features to train on and to be judged by, for train_quality.py: videos, edited copies, frame features, PCA.

    python benchmarks/train_features.py --scenes 48 --output CACHE/scenes
    python benchmarks/train_features.py --videos FOLDER --groups MANIFEST.csv --encoder ENCODER.pt --output CACHE/clips

Half of what the videos show is held out, chosen by the seed. Copies (the three frozen strengths of shards/edits.py) are
made of each half by itself, and the PCA is fitted on the training half, so that nothing that is trained has seen the
held-out half. Every stage is the command that users run; what is there already is used again, so a stopped run goes on.

The folder holds copies.csv (rows of edits.csv of both halves), training-copies.csv, groups.csv, held-out-groups.txt and
held-out-groups.csv (every held-out video and copy, with its group); its subfolder ``random`` or ``learnt``, by the
encoder, the feature store.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from reelkin.core.errors import ExitCode
from reelkin.core.files import publish_text
from reelkin.core.ids import read_ids
from reelkin.core.tables import read_csv
from reelkin.extract.store import FeatureStore
from reelkin.launch.split import group_videos, readable, split_by_group, write_csv
from reelkin.shards.sources.listing import list_videos

ROOT = Path(__file__).resolve().parents[1]
HALVES = ("training", "held-out")
FRAMES_PER_VIDEO, FRAMES_PER_COMPONENT = 100, 6


def run(script: str, *arguments: object) -> None:
    """One of the stages' commands; rejected videos are no failure here, as a set says how many it holds."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], stdout=subprocess.DEVNULL)
    if done.returncode not in (ExitCode.OK, ExitCode.REJECTS):
        raise SystemExit(f"{script} ended with exit code {done.returncode}")
    print(f"{script}: {time.monotonic() - began:.0f} s", flush=True)


def split(options: argparse.Namespace, videos: Path) -> None:
    """Write which videos are trained on, which are held out, and what belongs together."""
    inputs = readable(list_videos([videos]).inputs)
    path_of = {entry.video_id: str(Path(entry.path).resolve()) for entry in inputs}
    groups = group_videos(list(path_of), options.groups)
    found = split_by_group(groups, options.seed)
    for half, ids in zip(HALVES, (found.training, found.held_out), strict=True):
        write_csv(options.output / f"{half}.csv", ["video_id", "path"], [(each, path_of[each]) for each in ids])
    write_csv(options.output / "groups.csv", ["video_id", "group"], sorted(groups.items()))
    held = sorted({groups[video_id] for video_id in found.held_out})
    publish_text(options.output / "held-out-groups.txt", "\n".join(held) + "\n")
    print(f"{len(found.training)} videos to train on, {len(found.held_out)} ({len(held)} groups) held out", flush=True)


def edit(options: argparse.Namespace) -> None:
    """Copies of each half by itself, and their tables."""
    rows: dict[str, list[dict[str, str]]] = {}
    for half in HALVES:
        folder = options.output / f"copies-{half}"
        run(
            "shards/edits.py",
            *("--videos", options.output / f"{half}.csv", "--output", folder, "--short-side", 240),
            *("--max-seconds", 20, "--per-strength", options.per_strength, "--seed", options.seed),
            *("--workers", options.workers),
        )
        rows[half] = read_csv(folder / "edits.csv")
    for name, chosen in (("copies", rows["training"] + rows["held-out"]), ("training-copies", rows["training"])):
        write_csv(options.output / f"{name}.csv", list(chosen[0]), [list(row.values()) for row in chosen])
    group_of = {row["video_id"]: row["group"] for row in read_csv(options.output / "groups.csv")}
    held = [(row["video_id"], group_of[row["video_id"]]) for row in read_csv(options.output / "held-out.csv")]
    held += [(row["copy_id"], group_of[row["source_id"]]) for row in rows["held-out"]]
    write_csv(options.output / "held-out-groups.csv", ["video_id", "group"], dict.fromkeys(held))
    trained = {row["video_id"] for row in read_csv(options.output / "training.csv")}
    trained |= {row["copy_id"] for row in rows["training"]}
    publish_text(options.output / "training-ids.txt", "\n".join(sorted(trained)) + "\n")


def reduce(options: argparse.Namespace, folder: Path) -> None:
    """A PCA of as many dimensions as the training half supports (a multiple of 8 heads), applied to all.

    It whitens what random weights made; a learnt encoder loses by it when few sources are all there is to fit it on.
    """
    store = FeatureStore.open(folder / "frames")
    trained = [video_id for video_id in read_ids(options.output / "training-ids.txt") if video_id in store]
    frames = sum(min(store.num_frames(video_id), FRAMES_PER_VIDEO) for video_id in trained)
    components = max(8, min(options.components, store.dim, frames // FRAMES_PER_COMPONENT) // 8 * 8)
    run(
        "extract/fit_pca.py",
        *("--features", folder / "frames", "--video-ids", options.output / "training-ids.txt"),
        *("--frames-per-video", FRAMES_PER_VIDEO, "--components", components),
        *("--no-whiten" if options.encoder else "--whiten", "--output", folder / "pca.safetensors"),
    )
    run(
        "extract/reduce.py",
        *("--features", folder / "frames", "--pca", folder / "pca.safetensors", "--output", folder / "features"),
    )
    made = FeatureStore.open(folder / "features")
    frames = sum(made.num_frames(video_id) for video_id in made.video_ids)
    print(f"{folder / 'features'}: {len(made.video_ids)} videos, {frames} frames of {made.dim}", flush=True)


def main() -> None:
    """Make the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos; default: scenes are painted")
    parser.add_argument("--scenes", type=int, default=48, help="painted scenes")
    parser.add_argument("--seconds", type=float, default=8, help="length of a painted scene")
    parser.add_argument("--groups", type=Path, help="CSV with the columns file and group: what shows the same thing")
    parser.add_argument("--encoder", type=Path, help="TorchScript encoder; default: ResNet-50 with random weights")
    parser.add_argument("--per-strength", type=int, default=2, help="copies of a video at each strength")
    parser.add_argument("--components", type=int, default=128, help="most dimensions of the PCA")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, split and edits")
    parser.add_argument("--workers", type=int, default=0, help="processes that make copies; 0: one per core")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    videos = options.videos or options.output / "videos"
    if options.videos is None:
        scenes = ("--count", options.scenes, "--seconds", options.seconds, "--seed", options.seed)
        run("shards/scenes.py", "--output", videos, *scenes)
    split(options, videos)
    edit(options)
    copies = [options.output / f"copies-{half}" for half in HALVES]
    run("shards/build.py", "--videos", videos, *copies, "--output", options.output / "shards", "--max-reject-share", 1)
    folder = options.output / ("learnt" if options.encoder else "random")
    weights = ("torchscript", "--weights", options.encoder) if options.encoder else ("resnet50", "--weights", "random")
    shards = ("--shards", options.output / "shards", "--max-reject-share", 1)
    run("extract/run.py", *shards, "--encoder", *weights, "--output", folder / "frames")
    reduce(options, folder)


if __name__ == "__main__":
    main()
