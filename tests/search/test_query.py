"""From raw videos to matches through the commands, with a small encoder of the tests' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.errors import ExitCode, ReelkinError, UsageError
from reelkin.core.files import sha256_file
from reelkin.extract.decoding.tasks import Source
from reelkin.extract.describe import Describer
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.pca import PCA, fit_pca
from reelkin.extract.store import FeatureStore, write_store
from reelkin.search.api import similarity
from reelkin.search.index import SearchIndex
from reelkin.search.query import VideoEmbedder, check_weights
from reelkin.search.run import main
from reelkin.shards.video.encode import VideoWriter
from reelkin.shards.video.sampling import Sampling
from reelkin.train.checkpoint import save_model
from reelkin.train.models.tca import TCA, TCAConfig


class Tiny(torch.nn.Module):
    """Mean colours of a 4 x 4 grid: enough to tell the test's videos apart."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(frames.float() / 255, 4).flatten(1)


def scene(path: Path, seed: int, seconds: int = 4, first: int = 0) -> Path:
    """Coloured blocks that change each second; ``first`` leaves out the beginning."""
    rng = np.random.default_rng(seed)
    seconds_of_blocks = rng.integers(30, 220, (seconds, 4, 4, 3), dtype=np.uint8)
    with VideoWriter(path, 64, 64, fps=4) as writer:
        for blocks in seconds_of_blocks[first:]:
            for _ in range(4):
                writer.write(np.ascontiguousarray(blocks.repeat(16, axis=0).repeat(16, axis=1)))
    return path


class World:
    """Videos, weights, a store with a PCA, a model and an index, made once for this file."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.weights = folder / "tiny.pt"
        torch.jit.script(Tiny()).save(str(self.weights))
        self.videos = {f"scene_{n}": scene(folder / f"scene_{n}.mp4", n) for n in range(6)}
        self.part = scene(folder / "part of 2.mp4", 2, first=2)
        encoder = build_encoder(EncoderSpec("torchscript", weights=str(self.weights), size=64))
        sources = [Source(name, path) for name, path in self.videos.items()]
        with Describer(encoder) as plain:
            described = list(plain.describe(sources))
        fit_pca(np.concatenate([each.features for each in described]), 8).save(folder / "pca.safetensors")
        pca = PCA.load(folder / "pca.safetensors")
        info = {"encoder": encoder.info, "sampling": Sampling().as_dict(), "decoder": "pyav"}
        info["pca"] = {"sha256": sha256_file(folder / "pca.safetensors"), "file": "pca.safetensors"}
        write_store(folder / "store", {d.source.key: (pca.apply(d.features), d.times) for d in described}, info)
        (folder / "pca.safetensors").rename(folder / "store" / "pca.safetensors")
        save_model(TCA(TCAConfig(dim=8, num_heads=2, feedforward=16)), folder / "model")
        command = ["index", "--features", str(folder / "store"), "--model", str(folder / "model")]
        assert main([*command, "--output", str(folder / "index")]) == ExitCode.OK

    def query(self, *arguments: str | Path) -> int:
        command = ["query", "--index", self.folder / "index", "--weights", self.weights, *arguments]
        return main([str(word) for word in command])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_a_video_of_the_index_is_found_first_with_score_one(world: World, tmp_path: Path) -> None:
    assert world.query("--videos", world.videos["scene_3"], "--output", tmp_path / "found.json") == ExitCode.OK
    found = json.loads((tmp_path / "found.json").read_text())
    (query,) = found["queries"]
    assert len(query["matches"]) == 6 and query["matches"][0]["video_id"] == "scene_3"
    assert query["matches"][0]["score"] == pytest.approx(1.0, abs=1e-4)
    assert found["index_sha256"] == sha256_file(world.folder / "index" / "index.json")


def test_a_part_is_found_at_frame_level(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.query("--videos", world.part, "--level", "frame", "--top", "2") == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert "chamfer" in lines[2] and lines[3].split()[2] == "scene_2"


def test_queries_from_raw_videos_have_the_stores_embeddings(world: World) -> None:
    index = SearchIndex.open(world.folder / "index")
    (own,), rejected = VideoEmbedder.of_index(index, weights=world.weights).embed([world.videos["scene_1"]])
    assert not rejected and own.frames is not None
    np.testing.assert_allclose(own.video, index.embeddings[index.video_ids.index("scene_1")], atol=1e-3)
    np.testing.assert_allclose(own.frames, index.frame_store.features("scene_1"), atol=3e-3)


def test_unreadable_queries_are_named_with_reason_and_the_others_answered(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty\n.mp4").write_bytes(b"")
    bad = [tmp_path / "text.mp4", tmp_path / "empty\n.mp4", tmp_path / "missing.mp4"]
    out = tmp_path / "found.json"
    code = world.query("--videos", *bad, world.videos["scene_0"], "--output", out)
    assert code == ExitCode.REJECTS
    text = capsys.readouterr().out
    assert "empty\\n.mp4: not searched" in text and "missing.mp4: not searched (missing)" in text
    found = json.loads(out.read_text())
    assert [query["video"] for query in found["queries"]] == [str(world.videos["scene_0"])]
    assert {row["reason"] for row in found["rejected"]} >= {"missing"} and len(found["rejected"]) == 3


def test_when_no_query_can_be_read_the_command_fails(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.query("--videos", "nowhere.mp4") == ExitCode.FAILED
    assert "none of the 1 queries" in capsys.readouterr().err


def test_a_store_can_be_the_queries(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.query("--features", world.folder / "store", "--top", "1") == ExitCode.OK
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("     1")]
    assert [row[2] for row in rows] == sorted(world.videos)


def test_weights_that_run_code_must_be_named_and_be_the_recorded_ones(world: World, tmp_path: Path) -> None:
    info = FeatureStore.open(world.folder / "store").info["encoder"]
    with pytest.raises(UsageError, match="runs code, so name it yourself with --weights"):
        check_weights(info, None)
    other = tmp_path / "other.pt"
    other.write_bytes(world.weights.read_bytes() + b"\0")
    with pytest.raises(UsageError, match=f"has sha256 {sha256_file(other)}.*{info['weights_sha256']}"):
        check_weights(info, other)
    with pytest.raises(UsageError, match="there is no such file"):
        check_weights(info, tmp_path / "none.pt")
    with pytest.raises(ReelkinError, match="no encoder is recorded"):
        check_weights({}, None)
    trained = {"name": "run", "weights_sha256": "f" * 64}  # its folder is compared when it is read
    check_weights(trained, tmp_path)
    with pytest.raises(UsageError, match="there is no such folder"):
        check_weights(trained, tmp_path / "none")


def test_command_lines_that_cannot_run_exit_with_2(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    assert "search/run.py query --index index" in capsys.readouterr().err
    for words in (["query", "--index", "x"], ["index"], ["query", "--index", "x", "--videos", "a", "--top", "0"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == ExitCode.USAGE


def test_dry_run_builds_nothing(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["index", "--features", str(world.folder / "store"), "--output", str(tmp_path / "new"), "--dry-run"]
    assert main(command) == ExitCode.OK
    assert "6 videos" in capsys.readouterr().out and not (tmp_path / "new").exists()


def test_a_matrix_too_large_for_the_limit_is_refused_before_work(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", "--features", str(world.folder / "store"), "--output", str(tmp_path / "new")]
    assert main([*command, "--max-memory-gb", "1e-9"]) == ExitCode.FAILED
    assert "--max-memory-gb" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize("level", ["video", "frame", "symmetric"])
def test_similarity_of_two_files(world: World, level: str) -> None:
    index = world.folder / "index"
    a, b = world.videos["scene_0"], world.videos["scene_1"]
    assert similarity(a, a, index, weights=world.weights, level=level) == pytest.approx(1.0, abs=1e-5)
    assert similarity(a, b, index, weights=world.weights, level=level) < 0.99


def test_similarity_takes_a_model_with_its_store_and_gives_the_same(world: World) -> None:
    a, b = world.videos["scene_0"], world.videos["scene_1"]
    with_index = similarity(a, b, world.folder / "index", weights=world.weights)
    with_model = similarity(a, b, world.folder / "model", features=world.folder / "store", weights=world.weights)
    assert with_model == pytest.approx(with_index, abs=1e-6)


def test_similarity_says_what_is_missing(world: World) -> None:
    a = world.videos["scene_0"]
    with pytest.raises(ReelkinError, match=r"nowhere\.mp4 cannot be compared \(missing\)"):
        similarity(a, "nowhere.mp4", world.folder / "index", weights=world.weights)
    with pytest.raises(UsageError, match="pass features=STORE"):
        similarity(a, a, world.folder / "model")
    with pytest.raises(UsageError, match="neither an index folder"):
        similarity(a, a, world.folder)
    with pytest.raises(UsageError, match="level is 'pixel'"):
        similarity(a, a, world.folder / "index", level="pixel")
