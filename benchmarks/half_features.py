#!/usr/bin/env python3
"""Features of one split by halves, for published_clips.py and published_command.py; their figures rest on this split.

    python benchmarks/half_features.py --videos FOLDER --groups MANIFEST.csv --encoder ENCODER.pt --output CACHE/clips

Half of what the videos show is held out, chosen by the seed. Copies (the three frozen strengths of shards/edits.py) are
made of each half by itself, and the PCA is fitted on the training half, so that nothing that is trained has seen the
held-out half. Where figures of quality are wanted, train_features.py deals folds instead and holds out everything once.

The folder holds training.csv and held-out.csv (video_id, path), copies.csv (rows of edits.csv of both halves),
training-copies.csv, training-ids.txt, groups.csv, held-out-groups.txt and held-out-groups.csv (every held-out video
and copy, with its group); its subfolder ``random`` or ``learnt``, by the encoder, the feature store.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from train_features import reduce, run, write_copies

from reelkin.core.files import publish_text
from reelkin.core.tables import publish_csv, read_csv
from reelkin.launch.split import group_videos, readable, split_by_group
from reelkin.shards.sources.listing import list_videos

HALVES = ("training", "held-out")


def split(options: argparse.Namespace, videos: Path) -> None:
    """Write which videos are trained on, which are held out, and what belongs together."""
    inputs = readable(list_videos([videos]).inputs)
    path_of = {entry.video_id: str(Path(entry.path).resolve()) for entry in inputs}
    groups = group_videos(list(path_of), options.groups)
    found = split_by_group(groups, options.seed)
    for half, ids in zip(HALVES, (found.training, found.held_out), strict=True):
        publish_csv(options.output / f"{half}.csv", ["video_id", "path"], [(each, path_of[each]) for each in ids])
    publish_csv(options.output / "groups.csv", ["video_id", "group"], sorted(groups.items()))
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
    write_copies(options.output / "copies.csv", rows["training"] + rows["held-out"])
    write_copies(options.output / "training-copies.csv", rows["training"])
    group_of = {row["video_id"]: row["group"] for row in read_csv(options.output / "groups.csv")}
    held = [(row["video_id"], group_of[row["video_id"]]) for row in read_csv(options.output / "held-out.csv")]
    held += [(row["copy_id"], group_of[row["source_id"]]) for row in rows["held-out"]]
    publish_csv(options.output / "held-out-groups.csv", ["video_id", "group"], dict.fromkeys(held))
    trained = {row["video_id"] for row in read_csv(options.output / "training.csv")}
    trained |= {row["copy_id"] for row in rows["training"]}
    publish_text(options.output / "training-ids.txt", "\n".join(sorted(trained)) + "\n")


def main() -> None:
    """Make the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos")
    parser.add_argument("--groups", type=Path, help="CSV with the columns file and group: what shows the same thing")
    parser.add_argument("--encoder", type=Path, help="TorchScript encoder; default: ResNet-50 with random weights")
    parser.add_argument("--per-strength", type=int, default=2, help="copies of a video at each strength")
    parser.add_argument("--components", type=int, default=128, help="most dimensions of the PCA")
    parser.add_argument("--seed", type=int, default=0, help="of split and edits")
    parser.add_argument("--workers", type=int, default=0, help="processes that make copies; 0: one per core")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    split(options, options.videos)
    edit(options)
    copies = [options.output / f"copies-{half}" for half in HALVES]
    shards = options.output / "shards"
    run("shards/build.py", "--videos", options.videos, *copies, "--output", shards, "--max-reject-share", 1)
    folder = options.output / ("learnt" if options.encoder else "random")
    weights = ("torchscript", "--weights", options.encoder) if options.encoder else ("resnet50", "--weights", "random")
    lenient = ("--max-reject-share", 1)
    run("extract/run.py", "--shards", shards, "--encoder", *weights, "--output", folder / "frames", *lenient)
    reduce(options, folder / "frames", options.output / "training-ids.txt", folder)


if __name__ == "__main__":
    main()
