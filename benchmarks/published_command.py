#!/usr/bin/env python3
"""The published training command, as its README has it, on real features, to its end and to a score.

    python benchmarks/published_command.py --videos FOLDER --groups MANIFEST.csv --encoder ENCODER.pt --output CACHE

Features: the videos and edited copies of them (each half of the groups by itself), frames through the encoder, a
whitened PCA to 1024 dimensions fitted on the training half; once as a feature store and once as the HDF5 file of the
published code. Labels: a pickle with the structure of VCDB's over the training half, of which every third group is
background (no pair, drawn as negatives only).

Lines, each of them the README's with paths, fewer epochs and the launcher's carrier changed: over gloo without
``--use-adasum`` (from the HDF5 file), over gloo with it (which is refused, with what to do), over MPI with it (from the
store), and, with ``--eight``, a single step on eight ranks, where the published code stops at its queue.

Printed: time, steps, loss, and mAP on copies of the held-out half beside that of mean pooling. What is there already is
used again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from half_features import edit, split
from train_features import run

from reelkin.core.files import publish_text, read_json
from reelkin.core.tables import read_csv
from reelkin.extract.store import FeatureStore
from reelkin.train.running.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LINE = (
    "--num_clusters 256 --num_layers 1 --output_dim {dim} --normalize_input --neg_num 16 --epochs {epochs} "
    "--batch_sz {batch} --learning_rate 1e-5 --momentum 0.9 --weight_decay 1e-4 --pca_components {dim} "
    "--padding_size 300 --num_readers 32 --num_workers 1 --moco_k 4096 --moco_m 0. --moco_t 1.0 --print-freq 1"
)
"""The README's flags after the three paths, up to the last two."""


def features(options: argparse.Namespace) -> None:
    """Make store, HDF5 file and labels."""
    out = options.output
    if not (out / "training-ids.txt").exists():
        split(options, options.videos)
        edit(options)
    copies = [out / f"copies-{half}" for half in ("training", "held-out")]
    lenient = ("--max-reject-share", 1)
    run("shards/build.py", "--videos", options.videos, *copies, "--output", out / "shards", *lenient)
    encoder = ("torchscript", "--weights", options.encoder) if options.encoder else ("resnet50", "--weights", "random")
    pictures = ("--fps", options.fps)
    run(
        "extract/run.py",
        "--shards",
        out / "shards",
        "--encoder",
        *encoder,
        *pictures,
        *lenient,
        "--output",
        out / "frames",
    )
    run(
        "extract/fit_pca.py",
        *("--features", out / "frames", "--video-ids", out / "training-ids.txt", "--frames-per-video", 1000),
        *("--components", options.dim, "--output", out / "pca.safetensors"),
    )
    run("extract/reduce.py", "--features", out / "frames", "--pca", out / "pca.safetensors", "--output", out / "store")
    if not (out / "features.hdf5").exists():
        run(
            "extract/export_features.py", "--features", out / "store", "--to", out / "features.hdf5", "--layout", "hdf5"
        )
    store = FeatureStore.open(out / "store")
    frames = sum(store.num_frames(video_id) for video_id in store.video_ids)
    print(f"features: {len(store.video_ids)} videos, {frames} frames of {store.dim} dimensions")


def annotate(options: argparse.Namespace) -> None:
    """Write vcdb.pickle over the training half: pairs within a group, every third group as background.

    A copy into which another video was joined counts for its own group only, so a background video may show a part of
    it: with so few videos, leaving such copies out would leave too few pairs.
    """
    out = options.output
    group_of = {row["video_id"]: row["group"] for row in read_csv(out / "groups.csv")}
    members: dict[str, dict[str, None]] = defaultdict(dict)
    for row in read_csv(out / "training.csv"):
        members[group_of[row["video_id"]]][row["video_id"]] = None
    rows = read_csv(out / "training-copies.csv")
    for row in rows:
        members[group_of[row["source_id"]]][row["copy_id"]] = None
    stored = set(FeatureStore.open(out / "store").video_ids)
    names = sorted(members)
    background = [video_id for name in names[::3] for video_id in members[name] if video_id in stored]
    pairs: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        if number % 3:
            whole = sorted(video_id for video_id in members[name] if video_id in stored)
            found = list(itertools.combinations(whole, 2))
            chosen = np.random.default_rng(number).permutation(len(found))[: options.pairs_per_group]
            pairs += [{"videos": list(found[place]), "overlap": [1.0, 1.0]} for place in sorted(chosen)]
    index = sorted({video_id for pair in pairs for video_id in pair["videos"]}) + background
    (out / "vcdb.pickle").write_bytes(
        pickle.dumps({"video_pairs": pairs, "index": index, "negs": background}, protocol=2)
    )
    print(f"labels: {len(pairs)} pairs in {len(names) - len(names[::3])} groups, {len(background)} background videos")


def launch(
    options: argparse.Namespace, name: str, carrier: str, ranks: int, features: str, more: str
) -> dict[str, Any]:
    """Run one line; how it ended, and what its run folder says."""
    out = options.output / name
    shutil.rmtree(out, ignore_errors=True)
    paths = (
        f"--annotation_path {options.output}/vcdb.pickle --feature_path {options.output}/{features} --model_path {out}"
    )
    flags = LINE.format(dim=options.dim, epochs=1 if ranks > 2 else options.epochs, batch=options.batch)
    line = f"horovodrun -np {ranks} -H localhost:{ranks} --{carrier} train/run.py {paths} {flags} {more}"
    print(f"\n{name}\n  $ {line}", flush=True)
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    began = time.monotonic()
    done = subprocess.run(line.split(), cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - began
    outcome = read_json(out / "outcome.json")
    rows = [row for row in RunFolder(out).metrics() if "loss" in row]
    print(f"  {seconds:.0f} s, launcher's exit code {done.returncode}, {outcome['reason']}")
    for word in ("without effect", "Adasum", "pairs of"):
        for said in [text for text in (done.stdout + done.stderr).splitlines() if word in text][:1]:
            print(f"  said: {said.strip()}")
    if rows:
        speed = np.median([row["samples_per_second"] for row in rows])
        rates = ", ".join(f"{rate:.3g}" for rate in sorted({row["lr"] for row in rows}, reverse=True))
        first, last = rows[1 % len(rows)]["loss"], rows[-1]["loss"]
        print(
            f"  {outcome['steps']} steps, loss {first:.3f} (second step) to {last:.3f}, {speed:.1f} pairs a second, "
            f"learning rates {rates}"
        )
    return {"line": line, "seconds": round(seconds, 1), "outcome": outcome, "last": rows[-1] if rows else None}


def score(options: argparse.Namespace, name: str) -> dict[str, dict[str, float]]:
    """mAP on copies of the held-out half, by strength and method."""
    out = options.output
    run(
        "evaluate/run.py",
        *("--ground-truth", out / "copies.csv", "--features", out / "store", "--model", out / name / "model"),
        *(
            "--groups",
            out / "groups.csv",
            "--held-out",
            out / "held-out-groups.txt",
            "--output",
            out / name / "results",
        ),
        *("--methods", "chance,mean-pool,tca-video,tca-frame"),
    )
    tasks = read_json(out / name / "results" / "results.json")["tasks"]
    found: dict[str, dict[str, float]] = {}
    for task in tasks:
        found[task["name"]] = {each["method"]: each["map"] for each in task["methods"]}
        figures = ", ".join(
            f"{each['method']} {each['map']:.3f} ({each['low']:.2f} to {each['high']:.2f})" for each in task["methods"]
        )
        print(f"  {task['name']}: {figures}", flush=True)
    return found


def main() -> None:
    """Make what is missing, run the lines, print and write figures.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--groups", type=Path, help="CSV with the columns file and group: what shows the same thing")
    parser.add_argument("--encoder", type=Path, help="TorchScript encoder; default: ResNet-50 with random weights")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--fps", type=float, default=4, help="pictures per second; the PCA needs more than its dimensions"
    )
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3, help="the README has 40")
    parser.add_argument("--batch", type=int, default=64, help="pairs per rank and step")
    parser.add_argument("--pairs-per-group", type=int, default=200, help="most pairs of a group")
    parser.add_argument("--per-strength", type=int, default=2, help="copies of a video at each strength")
    parser.add_argument("--lines", default="gloo,refused,mpi", help="which lines; eight: one step on eight ranks")
    parser.add_argument("--seed", type=int, default=0, help="of split and edits")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    options.output = options.output.resolve()
    features(options)
    annotate(options)
    lines = {
        "gloo": ("gloo", 2, "features.hdf5", "--fp16-allreduce"),
        "refused": ("gloo", 2, "features.hdf5", "--use-adasum --fp16-allreduce"),
        "mpi": ("mpi", 2, "store", "--use-adasum --fp16-allreduce"),
        "eight": ("mpi", 8, "store", "--use-adasum --fp16-allreduce"),
    }
    figures: dict[str, Any] = {}
    for name in options.lines.split(","):
        figures[name] = launch(options, name, *lines[name])
        if figures[name]["outcome"]["exit_code"] == 0:
            figures[name]["map"] = score(options, name)
    publish_text(options.output / "figures.json", json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
