#!/usr/bin/env python3
"""Features to train on and to be judged by, for train_quality.py: videos, edited copies, frame features, PCA, splits.

    python benchmarks/train_features.py --scenes 48 --per-strength 1 --output CACHE/scenes
    python benchmarks/train_features.py --videos FOLDER --groups MANIFEST.csv --moments 2 --fps 4 \\
        --strengths medium,hard --encoder ENCODER.pt --output CACHE/moments

What the videos show is dealt into folds, by the seed. Split k holds out fold k and trains on all others, so everything
is held out once. Copies (of the frozen strengths of shards/edits.py) are made of each fold by itself, and a PCA is
fitted for each split on its training folds, so that nothing that is trained has seen what is held out. Every stage is
the command that users run; what is there already is used again, so a stopped run goes on.

The folder holds copies.csv (rows of edits.csv of all folds) and groups.csv (video_id; group: what is to be found
together; source: what is dealt into folds and drawn by intervals, with --moments the clip they were cut from). A
folder split-K has training-copies.csv, training-ids.txt, held-out-groups.txt and held-out-groups.csv (every held-out
video and copy, with its group). The subfolder ``random`` or ``learnt``, by the encoder, has the frame features and
for each split the store ``split-K/features``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from moments import cut_moments

from reelkin.core.errors import ExitCode
from reelkin.core.files import publish_text
from reelkin.core.ids import read_ids
from reelkin.core.seeds import seed_of
from reelkin.core.tables import publish_csv, read_csv
from reelkin.extract.store import FeatureStore
from reelkin.launch.split import group_videos, readable
from reelkin.shards.sources.listing import list_videos

ROOT = Path(__file__).resolve().parents[1]
FRAMES_PER_VIDEO, FRAMES_PER_COMPONENT = 100, 6


def run(script: str, *arguments: object) -> None:
    """One of the stages' commands; rejected videos are no failure here, as a set says how many it holds."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], stdout=subprocess.DEVNULL)
    if done.returncode not in (ExitCode.OK, ExitCode.REJECTS):
        raise SystemExit(f"{script} ended with exit code {done.returncode}")
    print(f"{script}: {time.monotonic() - began:.0f} s", flush=True)


def find_videos(options: argparse.Namespace) -> Path:
    """The folder of videos, painted or cut if need be; groups.csv and videos.csv say what they are."""
    videos = options.output / "videos"
    source_of: dict[str, str] = {}
    if options.videos is None:
        scenes = ("--count", options.scenes, "--seconds", options.seconds, "--seed", options.seed)
        run("shards/scenes.py", "--output", videos, *scenes)
    else:
        given = readable(list_videos([options.videos]).inputs)
        source_of = group_videos([entry.video_id for entry in given], options.groups)
        if options.moments:
            source_of = cut_moments(given, source_of, videos, seconds=options.moments, most=options.most_moments)
        else:
            videos = options.videos
    path_of = {entry.video_id: str(Path(entry.path).resolve()) for entry in readable(list_videos([videos]).inputs)}
    source_of = source_of or {video_id: video_id for video_id in path_of}
    rows = [(each, each if options.moments else source_of[each], source_of[each]) for each in sorted(path_of)]
    publish_csv(options.output / "groups.csv", ["video_id", "group", "source"], rows)
    publish_csv(options.output / "videos.csv", ["video_id", "path"], sorted(path_of.items()))
    return videos


def edit(options: argparse.Namespace) -> None:
    """Deal the sources into folds; copies of each fold by itself; the tables of all and of each split."""
    known = read_csv(options.output / "groups.csv")
    path_of = {row["video_id"]: row["path"] for row in read_csv(options.output / "videos.csv")}
    sources = sorted({row["source"] for row in known}, key=lambda name: seed_of("fold", options.seed, name))
    fold_of = {source: number % options.folds for number, source in enumerate(sources)}
    copies: list[list[dict[str, str]]] = []
    for fold in range(options.folds):
        inputs = [(row["video_id"], path_of[row["video_id"]]) for row in known if fold_of[row["source"]] == fold]
        publish_csv(options.output / f"fold-{fold}.csv", ["video_id", "path"], inputs)
        folder = options.output / f"copies-{fold}"
        run(
            "shards/edits.py",
            *("--videos", options.output / f"fold-{fold}.csv", "--output", folder, "--short-side", 240),
            *("--max-seconds", 20, "--per-strength", options.per_strength, "--strengths", options.strengths),
            *("--seed", options.seed, "--workers", options.workers),
        )
        copies.append(read_csv(folder / "edits.csv"))
    write_copies(options.output / "copies.csv", [row for rows in copies for row in rows])
    for fold in range(options.folds):
        folder = options.output / f"split-{fold}"
        trained = [row for number, rows in enumerate(copies) if number != fold for row in rows]
        write_copies(folder / "training-copies.csv", trained)
        ids = {row["video_id"] for row in known if fold_of[row["source"]] != fold}
        publish_text(folder / "training-ids.txt", "\n".join(sorted(ids | {row["copy_id"] for row in trained})) + "\n")
        group_of = {row["video_id"]: row["group"] for row in known if fold_of[row["source"]] == fold}
        publish_text(folder / "held-out-groups.txt", "\n".join(sorted(set(group_of.values()))) + "\n")
        group_of |= {row["copy_id"]: group_of[row["source_id"]] for row in copies[fold]}
        publish_csv(folder / "held-out-groups.csv", ["video_id", "group"], sorted(group_of.items()))
    print(f"{len(path_of)} videos from {len(sources)} sources in {options.folds} folds", flush=True)


def write_copies(path: Path, rows: list[dict[str, str]]) -> None:
    """A table like edits.csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    publish_csv(path, list(rows[0]), [list(row.values()) for row in rows])


def reduce(options: argparse.Namespace, frames: Path, trained_on: Path, folder: Path) -> None:
    """A PCA of as many dimensions as the training folds support (a multiple of 8 heads), applied to all.

    It whitens what random weights made; a learnt encoder loses by it when few sources are all there is to fit it on.
    """
    store = FeatureStore.open(frames)
    trained = [video_id for video_id in read_ids(trained_on) if video_id in store]
    count = sum(min(store.num_frames(video_id), FRAMES_PER_VIDEO) for video_id in trained)
    components = max(8, min(options.components, store.dim, count // FRAMES_PER_COMPONENT) // 8 * 8)
    folder.mkdir(parents=True, exist_ok=True)
    run(
        "extract/fit_pca.py",
        *("--features", frames, "--video-ids", trained_on, "--frames-per-video", FRAMES_PER_VIDEO),
        *("--components", components, "--no-whiten" if options.encoder else "--whiten"),
        *("--output", folder / "pca.safetensors"),
    )
    run("extract/reduce.py", "--features", frames, "--pca", folder / "pca.safetensors", "--output", folder / "features")
    made = FeatureStore.open(folder / "features")
    count = sum(made.num_frames(video_id) for video_id in made.video_ids)
    print(f"{folder / 'features'}: {len(made.video_ids)} videos, {count} frames of {made.dim}", flush=True)


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos; default: scenes are painted")
    parser.add_argument("--scenes", type=int, default=48, help="painted scenes")
    parser.add_argument("--seconds", type=float, default=8, help="length of a painted scene")
    parser.add_argument("--groups", type=Path, help="CSV with the columns file and group: what shows the same thing")
    parser.add_argument("--moments", type=float, help="cut moments of so many seconds from the longest of each group")
    parser.add_argument("--most-moments", type=int, default=10, help="moments cut from one video")
    parser.add_argument("--fps", type=float, default=1, help="frames extracted a second")
    parser.add_argument("--encoder", type=Path, help="TorchScript encoder; default: ResNet-50 with random weights")
    parser.add_argument("--strengths", default="easy,medium,hard", help="of the edits")
    parser.add_argument("--per-strength", type=int, default=2, help="copies of a video at each strength")
    parser.add_argument("--folds", type=int, default=4, help="folds, each held out once")
    parser.add_argument("--components", type=int, default=128, help="most dimensions of the PCA")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, folds and edits")
    parser.add_argument("--workers", type=int, default=0, help="processes that make copies; 0: one per core")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Make the set."""
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    videos = find_videos(options)
    edit(options)
    copies = [options.output / f"copies-{fold}" for fold in range(options.folds)]
    run("shards/build.py", "--videos", videos, *copies, "--output", options.output / "shards", "--max-reject-share", 1)
    folder = options.output / ("learnt" if options.encoder else "random")
    weights = ("torchscript", "--weights", options.encoder) if options.encoder else ("resnet50", "--weights", "random")
    shards = ("--shards", options.output / "shards", "--max-reject-share", 1)
    run("extract/run.py", *shards, "--encoder", *weights, "--fps", options.fps, "--output", folder / "frames")
    for fold in range(options.folds):
        reduce(
            options, folder / "frames", options.output / f"split-{fold}" / "training-ids.txt", folder / f"split-{fold}"
        )


if __name__ == "__main__":
    main()
