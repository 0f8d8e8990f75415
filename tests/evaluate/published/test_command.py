"""evaluate/run.py --dataset: the published line, what is written, baselines, ranks."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.core.engine import start
from reelkin.core.errors import ExitCode
from reelkin.evaluate.compare import main as compare
from reelkin.evaluate.published.benchmarks import read_annotation
from reelkin.evaluate.published.config import BESIDE, RESULTS, PublishedConfig
from reelkin.evaluate.published.scores import ScoreSettings, open_videos
from reelkin.evaluate.published.scoring import evaluate_scores
from reelkin.evaluate.run import main
from reelkin.evaluate.session import mode_of
from reelkin.extract.store import write_store
from reelkin.shards.build import main as build
from reelkin.train.models.tca import TCA, TCAConfig
from tests.evaluate.published.conftest import COPIES, World
from tests.helpers.devices import COMPUTING, note_devices
from tests.helpers.runs import run_here
from tests.helpers.videos import make_video
from tests.train.conftest import BIN, command_for

ROOT = Path(__file__).parents[3]
engine_start = importlib.import_module("reelkin.core.engine.start")  # the package's own "start" is the function


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_the_published_line_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotation = read_annotation("FIVR-5K")
    wanted = [*annotation.queries[:3], *(v for q in annotation.queries[:3] for v in annotation.labels[q]["DS"][:4])]
    rng = np.random.default_rng(0)
    content = {v: (rng.normal(size=(3, 1024)).astype(np.float32), np.arange(3.0)) for v in dict.fromkeys(wanted)}
    write_store(tmp_path / "features", content, {})
    model = TCA(TCAConfig(dim=1024, num_heads=8, feedforward=2048))
    torch.save({f"encoder_q.{key}": value for key, value in model.state_dict().items()}, tmp_path / "model.pth")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    line = (
        "--dataset FIVR-5K --pca_components 1024 --num_clusters 256 --num_layers 1 --output_dim 1024 "
        "--padding_size 300 --metric cosine --model_path ../model.pth --feature_path ../features"
    )
    ran = run_here(main, *line.split())
    assert ran.code == ExitCode.OK, ran.log
    assert "without effect on the model tca: --num_clusters" in ran.log
    lines = ran.said.splitlines()
    coverage = f"3 of 50 queries, {len(set(wanted) & set(annotation.database or ()))} of 5,000 videos"
    assert lines[0] == f"FIVR-5K, annotation old, protocol corrected: {coverage} have scores"
    assert [line.split()[0] for line in lines[1:7]] == ["DSVR", "CSVR", "ISVR", "DSVD", "CSVD", "ISVD"]
    assert all(coverage in line for line in lines)
    assert not list((tmp_path / "here").iterdir())


def test_what_is_written_is_what_the_library_finds(world: World, tmp_path: Path) -> None:
    ran = world.run("--metric", "chamfer", "--bootstrap", "200", "--output", tmp_path)
    assert ran.code == ExitCode.OK, ran.log
    assert {path.name for path in tmp_path.iterdir()} == {RESULTS, *BESIDE}
    annotation = read_annotation("PAIRS", world.folder / "pairs.csv")
    settings = ScoreSettings(feature_path=world.folder / "store", model_path=world.folder / "model", metric="chamfer")
    with start(device="cpu") as engine:
        scores = open_videos(settings, annotation).score(engine)
    assert scores is not None
    expected = evaluate_scores(annotation, scores, num_resamples=200)
    found = read(tmp_path / "results.json")
    assert found["metrics"] == expected.figures and 0.1 < found["metrics"]["mAP"] < 1
    assert found["intervals"]["mAP"] == list(expected.intervals["mAP"])  # type: ignore[arg-type]
    assert (found["dataset"], found["protocol"]) == ("PAIRS", "corrected")
    assert found["coverage"] == {"queries": [6, 7], "database": [42, 43]}  # one that the list names is lost
    assert found["annotation_sha256"] == annotation.sha256 and len(found["database_sha256"]) == 64
    assert found["scores"]["metric"] == "chamfer" and found["config"]["bootstrap"] == 200
    assert "/secret" not in json.dumps(found["scores"])
    rows = list(csv.DictReader((tmp_path / "queries.csv").open()))
    assert [(row["query"], row["ap"]) for row in rows] == [(row.query, f"{row.ap:.6f}") for row in expected.rows]
    assert next(row for row in rows if row["query"] == "q1")["missing"] == '["lost"]'
    names = {
        "results.json",
        "queries.csv",
        "report.html",
        "scores.safetensors",
        *(f"{a}.{b}" for a in ("curves", "figures") for b in ("svg", "png")),
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all("6 of 7 queries, 42 of 43 videos" in line for line in ran.said.splitlines())


def test_the_device_reaches_every_embedding_and_comparison(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = world.run("--metric", "chamfer", "--baselines", "--device", "cpu", "--output", tmp_path / "plain.json")
    assert plain.code == ExitCode.OK, plain.log
    used = note_devices(monkeypatch)
    monkeypatch.setattr(engine_start, "choose_device", lambda *_: torch.device("cpu", 3))
    ran = world.run("--metric", "chamfer", "--baselines", "--output", tmp_path / "noted.json")
    assert ran.code == ExitCode.OK, ran.log
    assert {device for _, device in used} == {torch.device("cpu", 3)}
    assert {name for name, _ in used} == COMPUTING
    for key in ("metrics", "baselines"):
        assert read(tmp_path / "noted.json")[key] == read(tmp_path / "plain.json")[key]


def test_several_systems_can_lie_in_one_folder_and_be_compared(world: World, tmp_path: Path) -> None:
    for name, arguments in (("tca", ()), ("frames", ("--metric", "symmetric-chamfer"))):
        assert world.run(*arguments, "--output", tmp_path / f"{name}.json").code == ExitCode.OK
    assert {"tca.json", "tca.queries.csv", "tca.report.html", "frames.curves.svg"} <= {
        p.name for p in tmp_path.iterdir()
    }
    ran = run_here(compare, tmp_path / "tca.json", tmp_path / "frames.json")
    assert ran.code == ExitCode.OK and "mAP" in ran.said and "not in the same" not in ran.said
    assert ran.said.count("[6 of 7 queries, 42 of 43 videos in both]") == len(ran.said.splitlines())


def test_best_answers_are_those_of_the_plain_ranking(world: World, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    videos = [f"{q}_{c}" for q in ("q0", "q1", "q2") for c in range(COPIES)] + [f"v{n}" for n in range(9)]
    table = {
        query: {video: float(rng.integers(0, 6)) for video in videos if rng.random() < 0.9}
        for query in ("q0", "q1", "q2")
    }
    (tmp_path / "s.json").write_text(json.dumps(table))
    assert world.run("--similarities", tmp_path / "s.json", "--output", tmp_path, features=False).code == ExitCode.OK
    rows = {row["query"]: row for row in read(tmp_path / "results.json")["query_table"] if row["measure"] == "mAP"}
    assert set(rows) == set(table)
    for query, scored in table.items():
        wrong = max(score for video, score in scored.items() if not video.startswith(f"{query}_"))
        missed = [score for video, score in scored.items() if video.startswith(f"{query}_") and score <= wrong]
        row = rows[query]
        assert row["best_wrong_score"] == wrong and scored[row["best_wrong"]] == wrong
        assert row["best_wrong_place"] == 1 + sum(score > wrong for score in scored.values())
        assert row["best_missed_score"] == max(missed, default=None)
        if missed:
            assert scored[row["best_missed"]] == max(missed) and row["best_missed"].startswith(query)
            assert row["best_missed_place"] == 1 + sum(score > max(missed) for score in scored.values())


def test_trivial_solutions_stand_beside_the_model(world: World, tmp_path: Path) -> None:
    ran = world.run("--metric", "chamfer", "--baselines", "--output", tmp_path / "with.json")
    assert ran.code == ExitCode.OK, ran.log
    found = read(tmp_path / "with.json")
    assert list(found["baselines"]) == ["mean-pool", "mean-pool-frame", "untrained", "chance"]
    assert all("6 of 7 queries, 42 of 43 videos" in line for line in ran.said.splitlines())
    for name, metric in (("mean-pool", "cosine"), ("mean-pool-frame", "chamfer")):
        world.run("--metric", metric, "--output", tmp_path / "alone.json", model=False)
        assert read(tmp_path / "alone.json")["metrics"] == found["baselines"][name]["metrics"]
    # 24 positives among 6 rankings of 41 videos each, all tied
    assert found["baselines"]["chance"]["metrics"]["uAP"] == pytest.approx(24 / (6 * 41), abs=0.02)
    assert found["baselines"]["untrained"]["metrics"] != found["metrics"]
    world.run("--baselines", "--protocol", "legacy", "--output", tmp_path / "mean.json", model=False)
    legacy = read(tmp_path / "mean.json")["baselines"]
    assert list(legacy) == ["chance"] and 0 < legacy["chance"]["metrics"]["mAP"] < 0.5


def test_limit_takes_the_first_queries_that_are_there_of_the_same_annotation(world: World, tmp_path: Path) -> None:
    world.run("--output", tmp_path / "all.json")
    assert world.run("--limit", "2", "--output", tmp_path / "two.json").code == ExitCode.OK
    every, two = (read(tmp_path / f"{name}.json") for name in ("all", "two"))
    assert two["coverage"]["queries"] == [2, 7] and two["annotation_sha256"] == every["annotation_sha256"]
    assert two["queries"]["mAP"] == {query: every["queries"]["mAP"][query] for query in ("q0", "q1")}
    said = {problem["kind"]: problem["count"] for problem in two["problems"]}
    assert said["queries without scores, or left out by --limit 2"] == 5
    assert "queries of the annotation without scores" not in said
    table = {"q3": {"q3_0": 1.0, "v0": 0.5}, "stranger": {"v0": 1.0}, "q1": {"q1_0": 0.2, "v0": 0.5}}
    (tmp_path / "s.json").write_text(json.dumps(table))
    ran = world.run("--similarities", tmp_path / "s.json", "--limit", "1", "--output", tmp_path, features=False)
    assert ran.code == ExitCode.OK and list(read(tmp_path / "results.json")["queries"]["mAP"]) == ["q1"]


def test_a_dry_run_says_what_is_there_and_writes_nothing(world: World, tmp_path: Path) -> None:
    ran = world.run("--dry-run", "--baselines", "--output", tmp_path / "out")
    assert ran.code == ExitCode.OK and not (tmp_path / "out").exists()
    assert "features of 6 queries and 42 videos (210 frames)" in ran.said
    assert "baselines: chance, mean-pool, untrained" in ran.said
    ran = world.run("--dry-run", "--similarities", tmp_path / "none.json", features=False)
    assert ran.code == ExitCode.USAGE and f"--similarities {tmp_path / 'none.json'} is no file" in ran.log


def test_the_dataset_flag_chooses_the_benchmarks() -> None:
    assert mode_of(["--dataset", "EVVE"]).config is mode_of(["-d", "EVVE"]).config is PublishedConfig
    assert mode_of(["--dataset=EVVE"]).config is PublishedConfig
    assert mode_of(["--ground-truth", "--features"]).config is not PublishedConfig
    ran = run_here(main, "--dataset", "FIVR-5K")
    assert ran.code == ExitCode.USAGE and "--feature_path" in ran.log


def test_missing_queries_of_a_similarity_file_are_normal_and_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"q0": {"q0_0": 0.9, "v0": 0.1}}))
    ran = world.run("--similarities", tmp_path / "s.json", features=False)
    assert ran.code == ExitCode.OK and "1 of 7 queries, 2 of 26 videos" in ran.said
    assert "note: queries of the annotation without scores: 6: q1, q2" in ran.said


def test_the_report_shows_frames_and_their_similarities_of_what_went_wrong(world: World, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for seed, name in enumerate(("q0", "q0_0", "v0")):
        make_video(tmp_path / "videos" / f"{name}.mp4", seconds=3, fps=4, seed=seed)
    assert run_here(build, "--videos", tmp_path / "videos", "--output", tmp_path / "shards").code == ExitCode.OK
    (tmp_path / "s.json").write_text(json.dumps({"q0": {"q0_0": 0.2, "v0": 0.9}}))
    given = ("--shards", tmp_path / "shards", "--output", tmp_path / "file")
    ran = world.run("--similarities", tmp_path / "s.json", *given, features=False)
    assert ran.code == ExitCode.OK, ran.log
    text = (tmp_path / "file" / "report.html").read_text()
    assert text.count("data:image/jpeg") == 3 * 3 and "data:image/png" not in text  # a frame a second
    assert "place 1, score 0.900" in text and "place 2, score 0.200" in text
    ran = world.run("--metric", "chamfer", *given)
    text = (tmp_path / "file" / "report.html").read_text()
    assert ran.code == ExitCode.OK and text.count("data:image/png") == 2 * text.count("<article") > 0
    assert "5 × 5 frames" in text
    ran = world.run("--shards", tmp_path, "--output", tmp_path / "file")
    assert ran.code == ExitCode.FAILED and "scoring" not in ran.log


def test_a_damaged_shard_costs_pictures_and_no_figure(world: World, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "q0.mp4", seconds=3, fps=4, seed=0)
    assert run_here(build, "--videos", tmp_path / "videos", "--output", tmp_path / "shards").code == ExitCode.OK
    (shard,) = (tmp_path / "shards").glob("*.tar")
    data = bytearray(shard.read_bytes())
    data[2000:3000] = bytes(1000)
    shard.write_bytes(data)
    (tmp_path / "s.json").write_text(json.dumps({"q0": {"q0_0": 0.2, "v0": 0.9}}))
    ran = world.run(
        *("--similarities", tmp_path / "s.json", "--shards", tmp_path / "shards", "--output", tmp_path / "out"),
        features=False,
    )
    assert ran.code == ExitCode.OK and "no picture of q0: " in ran.log
    assert read(tmp_path / "out" / "results.json")["metrics"]["mAP"] == 0.5
    assert "no picture can be shown" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "horovod"])
def test_ranks_find_what_one_process_finds_and_one_of_them_speaks(world: World, tmp_path: Path, backend: str) -> None:
    flags = ["--dataset", "PAIRS", "--annotations", world.folder / "pairs.csv", "--metric", "chamfer", "--baselines"]
    flags += ["--feature_path", world.folder / "store", "--model_path", world.folder / "model"]
    words = [*command_for(backend, 2), ROOT / "evaluate" / "run.py", *flags, "--output", tmp_path / "many.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        list(map(str, words)), env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("protocol corrected: 6 of 7 queries") == 1
    assert run_here(main, *flags, "--output", tmp_path / "one.json").code == ExitCode.OK
    many, one = (read(tmp_path / f"{name}.json") for name in ("many", "one"))
    assert many["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    trivial = [each["baselines"]["untrained"]["metrics"] for each in (many, one)]
    assert trivial[0] == pytest.approx(trivial[1], abs=1e-6)
