#!/usr/bin/env python3
"""All published benchmarks on real features: edited copies of real clips in the place of the benchmarks' own videos.

    python benchmarks/half_features.py --videos FOLDER --groups MANIFEST.csv --encoder ENCODER.pt --output cache/clips
    python benchmarks/published_clips.py --features cache/clips/learnt --output cache/published
    python benchmarks/published_clips.py ... --report FIVR-5K     # its report; builds shards for the pictures

The benchmarks' videos are not here, so each held-out group of clips (a clip, others that show the same, and edited
copies of all) stands for a query and its positives: the group's first clip gets the query's id, the others the ids of
its positives, the easy copies those of the closest labels; where several queries share their positives (EVVE), some of
the group are queries too. Clips that the model was trained on, and their copies, get ids that no query lists and, where
a benchmark ranks what is judged for a query, ids judged wrong. Most ids stay without a video, which coverage says. The
figures show that the way from raw videos to results works, and what the protocols and metrics make of a few easy
queries; they say nothing of how a system does on the benchmarks.

Four systems on each: mean pooling and the model (trained here on the other clips, or --model), by cosine and chamfer,
under both protocols, with intervals; then evaluate/compare.py of the model with mean pooling.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from published_protocols import CLOSENESS, PROTOCOLS, evaluate, figures_of

from reelkin.core.config import parse
from reelkin.core.files import publish_text
from reelkin.core.ids import read_ids
from reelkin.core.tables import read_csv
from reelkin.evaluate.comparing.session import CompareConfig, compare
from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.benchmarks import DATASETS, read_annotation
from reelkin.extract.store import FeatureStore, write_store

ROOT = Path(__file__).resolve().parents[1]
STRENGTHS = {"easy": 1, "medium": 2, "hard": 3}
JUDGED_WRONG = {"CC_WEB_VIDEO": "X", "SVD": "0"}
MOST_WRONG = 30
"""Ids judged wrong for a query that get a video."""
TRAINING = "--steps 150 --batch-size 64 --max-frames 16 --momentum 0.9 --lr 5e-4 --feedforward 256"
SYSTEMS = tuple((model, metric) for metric in ("cosine", "chamfer") for model in ("mean pooling", "TCA"))


@dataclass
class Cast:
    """Which video stands for which id of a benchmark: ``video_of`` by id; ``group_of`` by id."""

    video_of: dict[str, str] = field(default_factory=dict)
    group_of: dict[str, str] = field(default_factory=dict)

    def give(self, ids: Iterable[str], videos: Iterable[str], group: str) -> None:
        """As far as both reach."""
        for video_id, video in zip(ids, videos, strict=False):
            self.video_of[video_id] = video
            self.group_of[video_id] = group


def held_out_groups(folder: Path) -> dict[str, list[str]]:
    """Videos of each held-out group: clips, then copies from easy to hard; none that shows another group too."""
    group_of = {row["video_id"]: row["group"] for row in read_csv(folder / "held-out-groups.csv")}
    copies = {row["copy_id"]: row for row in read_csv(folder / "copies.csv")}
    groups: dict[str, list[str]] = {}
    for video_id, group in group_of.items():
        other = copies[video_id]["other_source_id"] if video_id in copies else ""
        if not other or group_of.get(other) == group:
            groups.setdefault(group, []).append(video_id)
    for videos in groups.values():
        videos.sort(key=lambda video: (STRENGTHS[copies[video]["strength"]] if video in copies else 0, video))
    return groups


def positives(annotation: Annotation, query: str) -> list[str]:
    """Ids listed as right for a query, the closest first, that have a place in the database."""
    closest = sorted(CLOSENESS[annotation.dataset].items(), key=lambda item: -item[1])
    listed = [v for label, _ in closest for v in sorted(annotation.labels[query].get(label, ()))]
    known = set(annotation.database or ())
    return [v for v in dict.fromkeys(listed) if v in known and v != query]


def choose(annotation: Annotation, sizes: Sequence[int]) -> list[list[str]]:
    """For each size a query and up to size - 1 positives, all different, that contradict one another nowhere."""
    right = {query: set(positives(annotation, query)) for query in annotation.queries}

    database = set(annotation.database or ())

    def agree(video_id: str, others: Sequence[str]) -> bool:
        """Whether a video and the others are right for one another, as far as they are queries."""
        of_video = right.get(video_id)
        return all(video_id in right[other] for other in others if other in right) and (
            of_video is None or all(other in of_video for other in others if other in database)
        )

    chosen: list[list[str]] = []
    taken: set[str] = set()
    for size in sizes:
        best: list[str] = []
        for query in annotation.queries:
            if query in taken or right[query] & taken:
                continue
            found = [query]
            for video_id in positives(annotation, query):
                if len(found) == size:
                    break
                if agree(video_id, found):
                    found.append(video_id)
            if len(found) > len(best):
                best = found
            if len(best) == size:
                break
        chosen.append(best if len(best) > 1 else [])
        # whatever these queries list is theirs, so that no later group becomes a positive of theirs
        taken.update(best, *(right[video_id] for video_id in best if video_id in right))
    return chosen


def cast(annotation: Annotation, groups: Mapping[str, Sequence[str]], background: Sequence[str]) -> Cast:
    """Give ids to videos; see the top."""
    result = Cast()
    named = sorted(groups, key=lambda group: -len(groups[group]))
    for group, ids in zip(named, choose(annotation, [len(groups[group]) for group in named]), strict=True):
        if not ids:
            continue
        alike = [q for q in annotation.queries if q != ids[0] and annotation.labels[q] == annotation.labels[ids[0]]]
        more = alike[: len(groups[group]) // 5]
        result.give([ids[0], *more, *ids[1:]], groups[group], group)
    judged = {v for of_query in annotation.labels.values() for listed in of_query.values() for v in listed}
    label = JUDGED_WRONG.get(annotation.dataset)
    for number, query in enumerate([v for v in result.group_of if label and v in annotation.labels]):
        free = [v for v in annotation.labels[query].get(label or "", ()) if v not in result.video_of]
        # another part of them for each query
        result.give(free[:MOST_WRONG], islice(cycle(background), number * MOST_WRONG, None), "judged wrong")
    unlisted = (v for v in annotation.database or () if v not in judged and v not in annotation.labels)
    result.give(unlisted, background, "background")
    return result


def contradictions(annotation: Annotation, found: Cast) -> list[str]:
    """Pairs that a benchmark would judge wrongly: of one group and not right, or right and of two."""
    wrong = []
    members = [v for v, group in found.group_of.items() if group not in ("judged wrong", "background")]
    database = set(annotation.database or ())
    for query in (v for v in members if v in annotation.labels):
        right = set(positives(annotation, query))
        for video_id in members:
            same = found.group_of[video_id] == found.group_of[query]
            if video_id != query and video_id in database and same != (video_id in right):
                wrong.append(f"{query} {video_id}")
    return wrong


def write_pairs(path: Path, groups: Mapping[str, Sequence[str]]) -> None:
    """PAIRS: every clip with the others of its group; what is not named is wrong."""
    lines = ["query,video,label"]
    for videos in groups.values():
        clips = [video for video in videos if "__" not in video]
        lines += [f"{query},{video},1" for query in clips for video in videos if video != query]
    publish_text(path, "\n".join(lines) + "\n")


def renamed(store: FeatureStore, video_of: Mapping[str, str]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Features under other ids."""
    for video_id, video in video_of.items():
        yield video_id, (store.features(video), store.times(video))


def build_shards(features: Path, video_of: Mapping[str, str], output: Path) -> None:
    """Shards of the same videos under the benchmark's ids."""
    folder = features.parent
    path_of = {
        row["video_id"]: Path(row["path"])
        for half in ("training", "held-out")
        for row in read_csv(folder / f"{half}.csv")
    }
    for copy in (*folder.glob("copies-*/*.mp4"), *folder.glob("copies-*/*/*.mp4")):
        path_of[copy.stem] = copy
    lines = ["video_id,path"]
    for video_id, video in video_of.items():
        link = output / "videos" / f"{video_id}{path_of[video].suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path_of[video].resolve())
        lines.append(f"{video_id},{link}")
    publish_text(output / "videos.csv", "\n".join(lines) + "\n")
    command = [sys.executable, str(ROOT / "shards/build.py"), "--videos", str(output / "videos.csv")]
    subprocess.run([*command, "--output", str(output / "shards")], check=True, stdout=subprocess.DEVNULL)


def train(features: Path, run: Path, threads: int) -> Path:
    """A short training on the other clips' copies, if it is not there."""
    if not (run / "model").exists():
        words = ["--features", features / "features", "--copies", features.parent / "training-copies.csv"]
        words += ["--validate-groups", features.parent / "held-out-groups.csv", "--validate-every", 10**6]
        words += ["--threads", threads, "--output", run, *TRAINING.split()]
        command = [sys.executable, str(ROOT / "train/run.py"), "--recipe", "tca", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run / "model"


def prepare(dataset: str, options: argparse.Namespace, folder: Path) -> tuple[list[object], Cast]:
    """Writes the store under the benchmark's ids; the flags that every system shares."""
    store = FeatureStore.open(options.features / "features")
    groups = {
        name: [v for v in videos if v in store] for name, videos in held_out_groups(options.features.parent).items()
    }
    trained = [v for v in read_ids(options.features.parent / "training-ids.txt") if v in store]
    words: list[object] = ["--dataset", dataset, "--feature_path", folder / "store", "--bootstrap", 1000]
    if dataset == "PAIRS":
        write_pairs(folder / "pairs.csv", groups)
        found = Cast()
        for group, videos in {**groups, "background": trained}.items():
            found.give(videos, videos, group)
        words += ["--annotations", folder / "pairs.csv"]
    else:
        annotation = read_annotation(dataset)
        found = cast(annotation, groups, trained)
        wrong = contradictions(annotation, found)
        if wrong:
            print(f"{dataset}: {len(wrong)} pairs contradict the annotation, such as {wrong[0]}", file=sys.stderr)
    if not (folder / "store" / "store.json").exists():
        write_store(folder / "store", renamed(store, found.video_of), store.info)
    return words, found


def measure(dataset: str, options: argparse.Namespace, model: Path) -> None:
    """Print a benchmark's rows."""
    folder = options.output / dataset
    folder.mkdir(parents=True, exist_ok=True)
    words, found = prepare(dataset, options, folder)
    cells: dict[str, list[str]] = {}
    coverage = ""
    for name, metric in SYSTEMS:
        flags: list[object] = [*words, "--metric", metric, *(["--model_path", model] if name == "TCA" else [])]
        figures: list[dict[str, float]] = []
        for protocol in PROTOCOLS:
            output = folder / f"{name.replace(' ', '-')}-{metric}-{protocol}.json"
            results = evaluate([*flags, "--protocol", protocol], output)
            figures.append(dict(figures_of(results)))
        (queries, _), (videos, _) = results["coverage"].values()
        coverage = (
            f"{queries} of {results['coverage']['queries'][1]:,} x {videos} of {results['coverage']['database'][1]:,}"
        )
        for measure_name in figures[0]:
            cells.setdefault(measure_name, []).append(" / ".join(f"{each[measure_name]:.3f}" for each in figures))
    for measure_name, row in cells.items():
        print(f"| {dataset} | {coverage} | {measure_name} | {' | '.join(row)} |", flush=True)
    for metric in ("cosine", "chamfer"):
        a, b = (folder / f"{name}-{metric}-corrected.json" for name in ("mean-pooling", "TCA"))
        with contextlib.redirect_stderr(io.StringIO()):
            text = compare(parse(CompareConfig, [str(a), str(b)], prog="evaluate/compare.py", example="")).text()
        publish_text(folder / f"compared-{metric}.txt", text + "\n")
    counts = Counter(
        "of a group" if group not in ("judged wrong", "background") else group for group in found.group_of.values()
    )
    print(f"  {dataset}: {', '.join(f'{count} {name}' for name, count in counts.items())}", file=sys.stderr, flush=True)


def report(dataset: str, options: argparse.Namespace, model: Path) -> None:
    """The report page of one benchmark, with pictures."""
    folder = options.output / dataset
    words, found = prepare(dataset, options, folder)
    build_shards(options.features, found.video_of, folder)
    words += ["--metric", "chamfer", "--model_path", model, "--shards", folder / "shards", "--baselines"]
    command = [sys.executable, str(ROOT / "evaluate/run.py"), *map(str, words), "--output", str(folder / "report")]
    subprocess.run(command, check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="a set of half_features.py")
    parser.add_argument("--model", type=Path, help="model folder; default: one is trained")
    parser.add_argument("--datasets", nargs="*", default=DATASETS, choices=DATASETS)
    parser.add_argument("--report", choices=DATASETS, help="only make the report of this one")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = options.model or train(options.features, options.output / "run", options.threads)
    if options.report:
        (options.output / options.report).mkdir(parents=True, exist_ok=True)
        report(options.report, options, model)
        return
    print(f"| benchmark | there | figure | {' | '.join(f'{name}, {metric}' for name, metric in SYSTEMS)} |")
    print(f"|{'---|' * (3 + len(SYSTEMS))}")
    for dataset in options.datasets:
        measure(dataset, options, model)


if __name__ == "__main__":
    main()
