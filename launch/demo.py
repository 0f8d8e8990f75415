#!/usr/bin/env python3
"""The demo: raw videos become shards, features, a trained model, an index, scores and a report, one command a stage.

Every stage is started as a user would start it, and its command line is shown. The figures are honest by construction:
the videos are split by what they show (as far as that is known), PCA and model are fitted on one half and its edited
copies, and the table is computed on edited copies of the other half.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from reelkin.core.config import as_dict, command, parse
from reelkin.core.errors import ExitCode, ReelkinError, UsageError
from reelkin.core.files import publish_json, publish_text, read_json
from reelkin.core.ids import read_ids
from reelkin.core.seeds import seed_of
from reelkin.core.tables import publish_csv, read_csv
from reelkin.extract.store import FeatureStore
from reelkin.launch.split import Split, group_videos, groups_csv_in, readable, split_by_group
from reelkin.launch.stages import Stages
from reelkin.shards.sources.listing import list_videos

EXAMPLE = "reelkin demo --videos my-videos --encoder encoder.pt --output demo-run"
STRENGTHS = ("easy", "medium", "hard")
FRAMES_PER_VIDEO, MOST_COMPONENTS = 100, 128
FRAMES_PER_COMPONENT = 6
UNKNOWN_RELATIONS = (
    "No CSV says which of the videos show the same thing, so each is taken to show something else. Near-duplicates "
    "among them may stand on both sides of the split, and count as wrong when they are found"
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run the whole pipeline on your own videos, or on scenes that the demo renders itself."""

    videos: Path | None = None
    """Folder of videos. Default: 24 scenes are rendered."""
    groups: Path | None = None
    """CSV with the columns file (or video_id) and group: which of the videos show the same thing. Default: a CSV in
    the videos' folder that has the columns file and group; without one, each video is taken to show something else."""
    encoder: Path | None = None
    """TorchScript frame encoder. Default: torchvision's ResNet-50 with its ImageNet weights where they can be
    downloaded, else with random ones (said aloud)."""
    output: Path = Path("demo-run")
    """Folder for everything the demo writes; copies, shards, features and training of an earlier run are used again."""
    small: bool = False
    """Fewer scenes, copies and steps, to see that everything runs; the scores then mean little and are not judged."""
    seed: int = 0
    """Changes scenes, split, edits and training."""

    def __post_init__(self) -> None:
        if self.videos is not None and not self.videos.is_dir():
            raise UsageError(f"--videos {self.videos}: there is no such folder")
        for name, path in (("groups", self.groups), ("encoder", self.encoder)):
            if path is not None and not path.is_file():
                raise UsageError(f"--{name} {path}: there is no such file")
        if self.videos is not None and self.output.resolve().is_relative_to(self.videos.resolve()):
            raise UsageError(
                f"--output {self.output} lies inside --videos {self.videos}: its copies would be taken for your videos "
                "in the next run; choose a folder outside"
            )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config = parse(DemoConfig, argv, prog="reelkin demo", example=EXAMPLE)
    started = time.monotonic()
    claim(config)
    stages = Stages(count=9 if config.videos else 10)
    videos = config.videos or render(config, stages)
    split = make_split(config, videos)
    stages.count += split.has_related
    edit(config, split, stages)
    learn(config, videos, stages)
    if split.has_related:
        relate(config, stages)
    results = judge(config, stages)
    return conclude(config, results, stages, time.monotonic() - started)


def claim(config: DemoConfig) -> None:
    """Make the output folder, or make sure that the earlier run in it was of the same configuration."""
    facts = {key: value for key, value in as_dict(config).items() if key != "output"}
    if config.videos:
        listed = list_videos([config.videos]).inputs
        facts["listing"] = seed_of(*(part for e in listed for part in (e.video_id, e.bytes, e.modified_ns)))
    path = config.output / "demo.json"
    if path.exists() and read_json(path)["config"] != facts:
        raise ReelkinError(
            f"{config.output} holds a demo of other videos or settings ({path}); remove that folder, or name another "
            "one with --output (make demo OUTPUT=...)"
        )
    publish_json(path, {"config": facts})


def render(config: DemoConfig, stages: Stages) -> Path:
    """Scenes for a demo without videos of its own; returns their folder."""
    folder = config.output / "videos"
    count, seconds = (8, 4) if config.small else (24, 8)
    stages.run(
        "Scenes: videos painted by the project itself",
        "shards/scenes.py",
        *("--output", folder, "--count", str(count), "--seconds", str(seconds)),
        *("--seed", str(config.seed)),
    )
    return folder


def make_split(config: DemoConfig, videos: Path) -> Split:
    """Split the usable videos into two halves that show different things, and write the lists that the stages read."""
    listed = list_videos([videos]).inputs
    inputs = readable(listed)
    if len(inputs) < len(listed):
        print(
            f"\n{len(listed) - len(inputs)} of {len(listed)} videos cannot be used; the shards' manifest will say why"
        )
    groups_csv = config.groups or groups_csv_in(videos)
    if groups_csv:
        print(f"\n{groups_csv} says which videos show the same thing", flush=True)
    elif config.videos:
        print(f"\n{UNKNOWN_RELATIONS}", flush=True)
    groups = group_videos([entry.video_id for entry in inputs], groups_csv)
    split = split_by_group(groups, config.seed)
    path_of = {entry.video_id: str(Path(entry.path).resolve()) for entry in inputs}
    for name, ids in (("training", split.training), ("held-out", split.held_out)):
        publish_csv(config.output / f"{name}.csv", ["video_id", "path"], [(each, path_of[each]) for each in ids])
    publish_csv(config.output / "groups.csv", ["video_id", "group"], sorted(split.groups.items()))
    publish_text(config.output / "originals.txt", "\n".join(sorted(split.groups)) + "\n")
    publish_text(config.output / "held-out-groups.txt", "\n".join(sorted({groups[x] for x in split.held_out})) + "\n")
    print(f"{len(split.training)} videos to train on, {len(split.held_out)} others held out", flush=True)
    return split


def edit(config: DemoConfig, split: Split, stages: Stages) -> None:
    """Edited copies of each half by itself, so that no training copy shows a held-out video."""
    rows: list[dict[str, str]] = []
    for name in ("training", "held-out"):
        folder = config.output / f"copies-{name}"
        stages.run(
            f"Edited copies of the {name} videos: {', '.join(STRENGTHS)}",
            "shards/edits.py",
            *("--videos", config.output / f"{name}.csv", "--output", folder),
            *("--per-strength", "1" if config.small else "2", "--short-side", "240", "--max-seconds", "20"),
            *("--seed", str(config.seed), "--workers", "2"),
        )
        rows += read_csv(folder / "edits.csv")
    publish_csv(config.output / "copies.csv", list(rows[0]), [list(row.values()) for row in rows])
    group_of = dict(split.groups) | {row["copy_id"]: split.groups[row["source_id"]] for row in rows}
    held_groups = {split.groups[video_id] for video_id in split.held_out}
    held_rows = [(video_id, group) for video_id, group in group_of.items() if group in held_groups]
    publish_csv(config.output / "held-out-groups.csv", ["video_id", "group"], sorted(held_rows))
    trained = sorted(set(group_of) - {video_id for video_id, _ in held_rows})
    publish_text(config.output / "training-ids.txt", "\n".join(trained) + "\n")


def learn(config: DemoConfig, videos: Path, stages: Stages) -> None:
    """Shards, features, PCA, a trained model and its index."""
    out = config.output
    stages.run(
        "Shards: every file probed, packed and verified",
        "shards/build.py",
        *("--videos", videos, out / "copies-training", out / "copies-held-out"),
        *("--output", out / "shards", "--max-reject-share", "1"),
    )
    encoder = ["torchscript", "--weights", str(config.encoder)] if config.encoder else ["resnet50", "--weights", "auto"]
    stages.run(
        "Frame features: a frame a second through the encoder",
        "extract/run.py",
        *("--shards", out / "shards", "--encoder", *encoder, "--output", out / "frames", "--max-reject-share", "1"),
    )
    stages.run(
        "PCA, fitted on the training half",
        "extract/fit_pca.py",
        *(
            "--features",
            out / "frames",
            "--video-ids",
            out / "training-ids.txt",
            "--frames-per-video",
            FRAMES_PER_VIDEO,
        ),
        *(*pca_flags(config), "--output", out / "pca.safetensors"),
    )
    stages.run(
        "Features: the PCA applied to all frames",
        "extract/reduce.py",
        *("--features", out / "frames", "--pca", out / "pca.safetensors", "--output", out / "features"),
    )
    stages.run(
        "Training: the TCA transformer on two ranks, without labels",
        "train/run.py",
        *("--recipe", "tca", "--features", out / "features"),
        *("--copies", out / "copies-training" / "edits.csv", "--validate-groups", out / "held-out-groups.csv"),
        *(
            "--steps",
            20 if config.small else 150 if learnt(config) else 300,
            "--feedforward",
            "256",
            "--momentum",
            "0.9",
        ),
        *("--max-frames", "16", "--compression", "fp16"),
        *("--seed", str(config.seed), "--output", out / "run"),
        ranks=2,
        output=out / "run",
    )
    stages.run(
        "Index of all videos",
        "search/run.py",
        *("index", "--features", out / "features", "--model", out / "run" / "model", "--output", out / "index"),
    )


def pca_flags(config: DemoConfig) -> list[object]:
    """As many dimensions as the training half's frames support, a multiple of the transformer's 8 heads.

    Random encoders gain by whitening. Learnt ones lose by it when a dozen sources is all there is to fit it on.
    """
    store = FeatureStore.open(config.output / "frames")
    trained = [video_id for video_id in read_ids(config.output / "training-ids.txt") if video_id in store]
    frames = sum(min(store.num_frames(video_id), FRAMES_PER_VIDEO) for video_id in trained)
    dim = max(8, min(MOST_COMPONENTS, store.dim, frames // FRAMES_PER_COMPONENT) // 8 * 8)
    return ["--components", dim, "--no-whiten" if learnt(config) else "--whiten"]


def learnt(config: DemoConfig) -> bool:
    """Whether the encoder's weights were trained; its features then need less training on top, and overfit sooner."""
    return not read_json(config.output / "frames" / "store.json")["encoder"].get("random_weights")


def relate(config: DemoConfig, stages: Stages) -> None:
    """How well the videos that show the same thing are found among the videos as they were given, copies left out.

    The groups were used for the split only; still, half of these videos were trained on, each as its own.
    """
    out = config.output
    stages.run(
        "Related videos: those of one group, found among the given videos alone",
        "evaluate/run.py",
        *("--ground-truth", out / "groups.csv", "--features", out / "features", "--index", out / "index"),
        *("--shards", out / "shards", "--database", out / "originals.txt", "--output", out / "related"),
        *("--title", "Related videos found (half of them trained on, without these labels)"),
    )


def judge(config: DemoConfig, stages: Stages) -> dict[str, Any]:
    """Evaluate on the held-out half; returns the content of results.json."""
    out = config.output
    stages.run(
        "Evaluation and report: copies of the held-out videos, found among all",
        "evaluate/run.py",
        *("--ground-truth", out / "copies.csv", "--features", out / "features"),
        *("--index", out / "index", "--shards", out / "shards", "--groups", out / "groups.csv"),
        *("--held-out", out / "held-out-groups.txt", "--output", out / "results"),
    )
    return read_json(out / "results" / "results.json")


def figure(score: dict[str, Any]) -> str:
    """One cell of the table."""
    return "-" if score["map"] is None else f"{score['map']:.3f} ({score['low']:.2f}-{score['high']:.2f})"


def conclude(config: DemoConfig, results: dict[str, Any], stages: Stages, seconds: float) -> int:
    """Say what came out and what to try next; the exit code says whether training paid."""
    scores = {task["name"]: {each["method"]: each for each in task["methods"]} for task in results["tasks"]}
    table = Table(title="mAP on videos that training never saw (95 % interval), by strength of the edits", box=SIMPLE)
    table.add_column("method", no_wrap=True)
    for strength in scores:
        table.add_column(strength, no_wrap=True, justify="right")
    for name in scores[STRENGTHS[0]]:
        table.add_row(name, *(figure(scores[strength][name]) for strength in scores))
    print(flush=True)
    Console(width=max(100, Console().width)).print(table)
    mean = {name: sum(scores[s][name]["map"] or 0 for s in scores) / len(scores) for name in ("mean-pool", "tca-video")}
    publish_json(
        config.output / "outcome.json",
        {"seconds": round(seconds, 1), "stages": {k: round(v, 1) for k, v in stages.seconds.items()}, "mean_map": mean},
    )
    out = config.output
    weights = ["--weights", str(config.encoder)] if config.encoder else []
    query = shlex.join(
        ["search/run.py", "query", "--index", str(out / "index"), *weights, "--videos", "YOUR-VIDEO.mp4"]
    )
    print(f"Report, opens in any browser: {out / 'results' / 'report.html'}")
    print(f"All of it took {seconds / 60:.1f} minutes. Next, find a video of your own:\n  {query}", flush=True)
    if not config.small and mean["tca-video"] < mean["mean-pool"]:
        text = f"mean mAP {mean['tca-video']:.3f} at TCA's video level, {mean['mean-pool']:.3f} by mean pooling"
        gains = [task["gain_over_mean_pool"]["tca-video"] for task in results["tasks"]]
        if any(gain["high"] < 0 for gain in gains):
            raise ReelkinError(f"training made things worse: {text} of the same features")
        print(f"Training did not pay here: {text}; the intervals of the difference hold 0, so chance may explain it")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
