"""The evaluate command on small stores, and the pixel baseline on real video files."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.core.errors import ExitCode
from reelkin.evaluate import config, methods
from reelkin.evaluate.copies import copy_tasks
from reelkin.evaluate.evaluation import evaluate_tasks, frame_strip, publish_evaluation
from reelkin.evaluate.methods import THUMBNAIL, pixels, thumbnail
from reelkin.evaluate.run import main
from reelkin.extract.store import FeatureStore, write_store
from reelkin.search.index import build_index
from reelkin.shards.video.encode import VideoWriter
from reelkin.train.checkpoint import load_model, save_model
from reelkin.train.models.tca import TCA, TCAConfig
from tests.helpers.devices import COMPUTING, note_devices

DIM, SCENES, STRENGTHS = 16, 6, {"easy": 0.2, "medium": 0.8, "hard": 3.0}


@dataclass
class World:
    """A store of scenes and their copies, whose features are the scene's plus noise by strength; edits.csv; a model."""

    folder: Path
    store: FeatureStore
    edits: list[dict[str, str]]

    def run(self, *arguments: str | Path) -> int:
        return main([str(word) for word in ("--features", self.folder / "store", *arguments)])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    rng, videos, rows = np.random.default_rng(0), {}, []
    for n in range(SCENES):
        base = rng.normal(size=(5, DIM)) + 2 * rng.normal(size=DIM)
        videos[f"scene_{n}"] = (base, np.arange(5.0))
        for strength, noise in STRENGTHS.items():
            for copy in range(2):
                name = f"scene_{n}__{strength}_{copy}"
                rows.append({"copy_id": name, "source_id": f"scene_{n}", "strength": strength, "other_source_id": ""})
                videos[name] = (base + noise * rng.normal(size=base.shape), np.arange(5.0))
    rows.append({"copy_id": "lost", "source_id": "scene_0", "strength": "easy", "other_source_id": ""})
    info = {
        "encoder": {"name": "tiny", "weights_sha256": "ab", "weights_path": "/secret/place.pt"},
        "sampling": {"fps": 1.0},
    }
    store = write_store(folder / "store", videos, info)
    with open(folder / "edits.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    torch.manual_seed(0)
    save_model(TCA(TCAConfig(dim=DIM, num_heads=2, feedforward=16, init="identity")), folder / "model")
    (folder / "held.txt").write_text("scene_0\nscene_1\nscene_2\n")
    return World(folder, store, rows)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_copies_are_scored_by_strength_beside_the_trivial_solutions(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = ("--held-out", world.folder / "held.txt", "--model", world.folder / "model")
    assert world.run("--ground-truth", world.folder / "edits.csv", *held, "--output", tmp_path) == ExitCode.OK
    tasks = {task["name"]: task for task in read(tmp_path)["tasks"]}
    assert list(tasks) == ["easy", "medium", "hard"]
    maps = {name: {m["method"]: m["map"] for m in task["methods"]} for name, task in tasks.items()}
    assert list(maps["easy"]) == ["chance", "mean-pool", "mean-pool-frame", "untrained-video", "tca-video", "tca-frame"]
    assert maps["easy"]["tca-video"] > maps["hard"]["tca-video"] > maps["hard"]["chance"] - 0.1
    assert maps["easy"]["mean-pool"] > 0.9
    assert tasks["easy"]["num_queries"] == 6 and tasks["easy"]["num_database"] == SCENES + 2 * SCENES
    assert tasks["easy"]["coverage"]["missing"] == ["lost"]
    assert "held out from training (3 groups)" in tasks["easy"]["protocol"]
    out = capsys.readouterr().out
    assert "tca-video" in out and "missing: lost" in out
    assert (tmp_path / "report.html").read_text().count("<article") == 8
    assert len((tmp_path / "queries.csv").read_text().splitlines()) == 1 + 6 * 3 * 6
    assert "/secret" not in json.dumps(read(tmp_path)["inputs"])


def test_the_library_call_gives_the_figures_of_the_command(world: World, tmp_path: Path) -> None:
    model = load_model(world.folder / "model")
    held = {"scene_0", "scene_1", "scene_2"}
    strengths = ("easy", "medium", "hard")
    tasks = copy_tasks(world.edits, world.store.video_ids, groups=None, strengths=strengths, test_groups=held)
    results = evaluate_tasks(tasks, world.store, title="copies", model=model)
    arguments = ("--held-out", world.folder / "held.txt", "--model", world.folder / "model", "--output", tmp_path)
    assert world.run("--ground-truth", world.folder / "edits.csv", *arguments) == ExitCode.OK
    for task in read(tmp_path)["tasks"]:
        for method in task["methods"]:
            assert results.mean(method["method"], task["name"]) == pytest.approx(method["map"], abs=1e-9)


def test_the_device_reaches_every_embedding_and_comparison(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods_here = "mean-pool,mean-pool-frame,untrained-video,tca-video,tca-frame,tca-symmetric"
    arguments = ("--ground-truth", world.folder / "edits.csv", "--model", world.folder / "model")
    arguments += ("--methods", methods_here, "--output")
    assert world.run(*arguments, tmp_path / "plain", "--device", "cpu") == ExitCode.OK
    used = note_devices(monkeypatch)
    monkeypatch.setattr(methods, "usable_device", torch.device)
    monkeypatch.setattr(config, "choose_device", lambda _: torch.device("cpu", 3))
    assert world.run(*arguments, tmp_path / "noted") == ExitCode.OK
    assert {device for _, device in used} == {torch.device("cpu", 3)}
    assert {name for name, _ in used} == COMPUTING
    plain, noted_here = (
        [method["map"] for task in read(tmp_path / name)["tasks"] for method in task["methods"]]
        for name in ("plain", "noted")
    )
    assert noted_here == plain and len(plain) == 3 * 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_any_work(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--ground-truth", world.folder / "edits.csv", "--output", tmp_path / "results", "--device")
    assert world.run(*arguments, "cuda") == ExitCode.USAGE
    assert "or choose device 'cpu'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        world.run(*arguments, "meta")
    assert stop.value.code == ExitCode.USAGE
    assert "--device" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_run_folder_and_published_weights_are_evaluated_like_a_model_folder(world: World, tmp_path: Path) -> None:
    model = TCA(TCAConfig(dim=DIM, num_heads=8, feedforward=16)).eval()
    save_model(model, tmp_path / "run" / "model")
    torch.save({f"encoder_q.{key}": value for key, value in model.state_dict().items()}, tmp_path / "model.pth")
    found = []
    for given in (tmp_path / "run" / "model", tmp_path / "run", tmp_path / "model.pth"):
        truth = ("--ground-truth", world.folder / "edits.csv", "--methods", "tca-video")
        assert world.run(*truth, "--model", given, "--output", tmp_path / "results") == ExitCode.OK
        results = read(tmp_path / "results")
        assert results["inputs"]["model"]["config"]["dim"] == DIM and len(results["inputs"]["model"]["sha256"]) == 64
        found.append([method["map"] for task in results["tasks"] for method in task["methods"]])
    assert found[0] == found[1] == found[2] and len(found[0]) > 0


def test_evaluation_of_an_index_is_that_of_its_model(world: World, tmp_path: Path) -> None:
    build_index(world.store, tmp_path / "index", world.folder / "model")
    truth = ("--ground-truth", world.folder / "edits.csv", "--methods", "tca-video")
    assert world.run(*truth, "--index", tmp_path / "index", "--output", tmp_path / "a") == ExitCode.OK
    assert world.run(*truth, "--model", world.folder / "model", "--output", tmp_path / "b") == ExitCode.OK
    first, second = (read(tmp_path / name)["tasks"][0]["methods"][0]["map"] for name in "ab")
    assert first == second


def test_groups_can_be_split_by_a_column_and_queries_chosen(world: World, tmp_path: Path) -> None:
    lines = [
        f"{video_id},{video_id.split('__')[0]},{'copy' if '__' in video_id else 'original'}" for video_id in world.store
    ]
    (tmp_path / "groups.csv").write_text("\n".join(["video_id,group,kind", *lines, "gone,scene_0,copy"]))
    truth = ("--ground-truth", tmp_path / "groups.csv")
    assert world.run(*truth, "--split-by", "kind", "--output", tmp_path / "split") == ExitCode.OK
    assert [(t["name"], t["num_queries"]) for t in read(tmp_path / "split")["tasks"]] == [("copy", 36), ("original", 6)]
    (tmp_path / "queries.txt").write_text("scene_0\n\nscene_3\n")
    assert world.run(*truth, "--queries", tmp_path / "queries.txt", "--output", tmp_path / "few") == ExitCode.OK
    (task,) = read(tmp_path / "few")["tasks"]
    assert task["num_queries"] == 2 and task["coverage"]["positives"] == {"named": 13, "found": 12}
    assert world.run(*truth, "--limit", "3", "--output", tmp_path / "limit") == ExitCode.OK
    assert read(tmp_path / "limit")["tasks"][0]["num_queries"] == 3


def test_the_database_can_be_a_part_of_the_store(world: World, tmp_path: Path) -> None:
    ids = [name for name in world.store.video_ids if "__hard" not in name]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    truth = [(name, name.partition("__")[0]) for name in world.store.video_ids]
    (tmp_path / "groups.csv").write_text("video_id,group\n" + "".join(f"{a},{b}\n" for a, b in truth))
    flags = ["--ground-truth", tmp_path / "groups.csv", "--methods", "mean-pool"]
    assert world.run(*flags, "--database", tmp_path / "ids.txt", "--output", tmp_path / "part") == ExitCode.OK
    (task,) = read(tmp_path / "part")["tasks"]
    assert task["num_database"] == task["num_queries"] == len(ids)
    assert world.run(*flags, "--output", tmp_path / "whole") == ExitCode.OK
    assert task["methods"][0]["map"] > read(tmp_path / "whole")["tasks"][0]["methods"][0]["map"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--methods", "pixels"), ExitCode.USAGE, "--shards"),
        (("--methods", "tca-video"), ExitCode.USAGE, "--model"),
        (("--methods", "guess"), ExitCode.USAGE, "unknown method 'guess'"),
        (("--methods", "chance", "--show", "pixels"), ExitCode.USAGE, "--show pixels"),
        (("--split-by", "colour"), ExitCode.USAGE, "--split-by"),
        (("--held-out", "nowhere.txt"), ExitCode.USAGE, "nowhere.txt"),
        (("--model", "nowhere"), ExitCode.FAILED, "nowhere"),
    ],
)
def test_command_lines_that_cannot_run_say_why(
    arguments: tuple[str, ...],
    code: ExitCode,
    message: str,
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert world.run("--ground-truth", world.folder / "edits.csv", "--output", tmp_path / "out", *arguments) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_would_be_done(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--ground-truth", world.folder / "edits.csv", "--output", tmp_path / "out", "--dry-run")
    assert world.run(*arguments) == ExitCode.OK
    out = capsys.readouterr().out
    assert "hard: 12 queries against 18 videos" in out and "mean-pool" in out
    assert not (tmp_path / "out").exists()


@dataclass
class OneClip:
    data: bytes


class FewShards:
    """Stands for a ShardSet: a file per video id."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read_clip(self, video_id: str) -> list[OneClip]:
        return [OneClip(self.files[video_id])]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    files = {}
    for name, seed_of_name in (("a", 0), ("b", 1)):
        rng = np.random.default_rng(seed_of_name)
        blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        for suffix, brighter in (("", 0), ("_bright", 20)):
            with VideoWriter(folder / f"{name}{suffix}.mp4", 128, 96, fps=4) as writer:
                for _ in range(12):
                    writer.write(np.clip(blocks.astype(int) // 2 + 40 + brighter, 0, 255).astype(np.uint8))
            files[f"{name}{suffix}"] = (folder / f"{name}{suffix}.mp4").read_bytes()
    files["broken"] = b"nothing"
    return FewShards(files)


def test_thumbnails_find_a_brighter_copy_because_their_mean_is_removed(clips: Any) -> None:
    ids = ["a", "a_bright", "b", "b_bright", "broken"]
    method = pixels(clips, ids)
    scores = method.scores(ids, ids)
    assert method.trivial
    assert scores[0, 1] > 0.99 and scores[2, 3] > 0.99 and scores[0, 2] < 0.7
    assert not scores[4].any()
    assert thumbnail(clips, "a").shape == (THUMBNAIL * THUMBNAIL,)
    assert abs(thumbnail(clips, "a").mean()) < 1e-3


def test_strips_have_a_frame_per_second_and_none_for_what_cannot_be_shown(clips: Any) -> None:
    assert len(frame_strip(clips, "a")) == 3
    assert frame_strip(clips, "broken") == [] == frame_strip(clips, "absent")


def test_the_report_shows_frames_of_queries_and_matches(clips: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"copy_id": f"{n}_bright", "source_id": n, "strength": "easy"} for n in "ab"]
    videos = {name: (rng.normal(size=(2, 4)), np.arange(2.0)) for name in ("a", "a_bright", "b", "b_bright", "broken")}
    store = write_store(tmp_path / "store", videos, {})
    tasks = copy_tasks(rows, store.video_ids, groups=None, strengths=("easy",), test_groups=None)
    results = evaluate_tasks(tasks, store, title="copies", shards=clips)
    assert [m.method.name for m in results.tasks[0].methods] == ["chance", "pixels", "mean-pool", "mean-pool-frame"]
    assert results.mean("pixels", "easy") == 1.0
    publish_evaluation(results, tmp_path / "out", shards=clips, show="mean-pool")
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/jpeg;base64,") >= 2 * 2 * 3
