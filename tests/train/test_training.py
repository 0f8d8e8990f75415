"""Training in one process: it learns, resumes exactly, stops when asked, and refuses what it should."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.core.engine import start
from reelkin.core.errors import ExitCode, ReelkinError, UsageError
from reelkin.extract.store import FeatureStore, write_store
from reelkin.train.checkpoint import load_model
from reelkin.train.data.labels import read_copies
from reelkin.train.data.positives import groups_of
from reelkin.train.recipes.tca import TcaRecipe, build, build_model
from reelkin.train.running.optimisation import learning_rate
from reelkin.train.running.restoring import differences
from reelkin.train.running.run_folder import RunFolder
from reelkin.train.running.settings import LoopConfig
from reelkin.train.running.validation import choose_held_out, embed, retrieval_map
from reelkin.train.session import RECIPES, recipe_named, run

from .conftest import Data, scene_features, write_csv


def recipe(data: Data, output: Path, **fields: Any) -> TcaRecipe:
    small: dict[str, Any] = {
        "copies": data.copies, "steps": 8, "batch_size": 12, "queue_size": 50, "feedforward": 32, "log_every": 2,
        "checkpoint_every": 3, "warmup_steps": 2, "threads": 1,
    }  # fmt: skip
    return TcaRecipe(features=data.store, output=output, **(small | fields))


def load_state(folder: Path, step: int) -> dict[str, Any]:
    return dict(torch.load(folder / "checkpoints" / f"step-{step:06d}" / "state.pt", weights_only=True))


def train(config: TcaRecipe) -> int:
    return run(RECIPES["tca"], config)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "model").state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def outcome_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "outcome.json").read_text()))


def test_training_beats_mean_pooling_on_scenes_it_has_not_seen(data: Data, tmp_path: Path) -> None:
    config = recipe(
        data, tmp_path, steps=50, batch_size=40, queue_size=256, hold_out=0.4, validate_every=25, lr=2e-3
    )  # fmt: skip
    assert train(config) == ExitCode.OK
    found = [row["validation"] for row in RunFolder(tmp_path).metrics() if "validation" in row]
    assert [row["map"] > row["map_mean_pooling"] + 0.1 for row in found] == [True, True], found
    # The saved model scores what was logged, computed here independently of the loop.
    store, labels = FeatureStore.open(data.store), read_copies(data.copies)
    held = choose_held_out(groups_of(store.video_ids, labels), 0.4, config.seed)
    embeddings = embed(load_model(tmp_path / "model"), store, sorted(held))
    groups = np.array([held[video_id] for video_id in sorted(held)])
    assert retrieval_map(embeddings, groups) == pytest.approx(found[-1]["map"], abs=1e-6)


def test_training_without_labels_learns_from_edits_of_the_features(data: Data, tmp_path: Path) -> None:
    assert train(recipe(data, tmp_path, copies=None, steps=30, batch_size=24)) == ExitCode.OK
    rows = RunFolder(tmp_path).metrics()
    assert rows[-1]["loss"] < rows[0]["loss"] + 1 and rows[-1]["positive_similarity"] > 0.5
    assert "without labels" in (tmp_path / "model" / "card.md").read_text()


def test_two_runs_are_bit_equal_and_another_seed_is_not(data: Data, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(recipe(data, tmp_path / name, seed=seed, steps=4))
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "three"))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stopping_and_resuming_changes_no_bit(data: Data, tmp_path: Path, momentum: float) -> None:
    options: dict[str, Any] = {"momentum": momentum, "negatives_per_anchor": 1, "mining": "topk"}
    assert train(recipe(data, tmp_path / "whole", **options)) == ExitCode.OK
    assert train(recipe(data, tmp_path / "parts", stop_after=5, **options)) == ExitCode.STOPPED
    assert outcome_of(tmp_path / "parts")["steps"] == 5
    assert not (tmp_path / "parts" / "model").exists()
    assert train(recipe(data, tmp_path / "parts", **options)) == ExitCode.OK
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    states = [
        torch.load(tmp_path / name / "checkpoints" / "step-000008" / "state.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    for part in ("queue", "key_encoder"):
        assert states[0]["task"][part].keys() == states[1]["task"][part].keys()
        for key, value in states[0]["task"][part].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1]["task"][part][key])), (part, key)
    digests = [outcome_of(tmp_path / name)["weights_sha256"] for name in ("whole", "parts")]
    assert digests[0] == digests[1]
    steps = [row["step"] for row in RunFolder(tmp_path / "parts").metrics()]
    assert steps == sorted(set(steps)), "rows of steps done twice stand there once"


def test_a_crash_goes_on_from_the_last_checkpoint(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(recipe(data, tmp_path / "whole")) == ExitCode.OK
    from reelkin.train.objective.contrast import ContrastTask

    updated, calls = ContrastTask.updated, []

    def failing(self: ContrastTask) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("power cut")
        updated(self)

    monkeypatch.setattr(ContrastTask, "updated", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe(data, tmp_path / "crash"))
    assert outcome_of(tmp_path / "crash")["exit_code"] == ExitCode.FAILED
    assert "power cut" in outcome_of(tmp_path / "crash")["reason"]
    monkeypatch.undo()
    assert train(recipe(data, tmp_path / "crash")) == ExitCode.OK
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "crash"))


def test_a_finished_run_is_not_trained_again(data: Data, tmp_path: Path) -> None:
    assert train(recipe(data, tmp_path)) == ExitCode.OK
    before = (tmp_path / "metrics.jsonl").read_text()
    assert train(recipe(data, tmp_path)) == ExitCode.OK
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_resuming_with_other_settings_or_data_is_refused_unless_told(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path / "run", stop_after=3))
    with pytest.raises(UsageError, match=r"belongs to another run: config.lr was 0.0005, now 0.001"):
        train(recipe(data, tmp_path / "run", lr=1e-3))
    assert outcome_of(tmp_path / "run")["exit_code"] == ExitCode.STOPPED, "the refusal leaves the earlier outcome alone"
    features = scene_features(seed=5)
    write_store(tmp_path / "store", {name: (each, np.arange(len(each)) * 1.0) for name, each in features.items()}, {})
    with pytest.raises(UsageError, match="features was"):
        train(recipe(Data(tmp_path / "store", data.copies), tmp_path / "run"))
    labels = write_csv(tmp_path / "fewer.csv", ("copy_id", "source_id"), ("s00__1", "s00"), ("s01__1", "s01"))
    with pytest.raises(UsageError, match="labels was"):
        train(recipe(data, tmp_path / "run", copies=labels))
    with pytest.raises(UsageError, match="holds the checkpoint step-000003"):
        train(recipe(data, tmp_path / "run", resume="never"))
    assert train(recipe(data, tmp_path / "run", lr=1e-3, allow_changes=True)) == ExitCode.OK


def test_a_change_that_was_allowed_takes_effect(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path, stop_after=3))
    train(recipe(data, tmp_path, stop_after=4, optimizer="adam", weight_decay=0.5, allow_changes=True))
    state = torch.load(tmp_path / "checkpoints" / "step-000004" / "state.pt", weights_only=True)["optimizer"]
    found = [(group["weight_decay"], group["decoupled_weight_decay"]) for group in state["param_groups"]]
    assert found == [(0.5, False), (0.0, False)]
    assert int(state["state"][0]["step"]) == 4, "and the moments go on"


def test_keys_of_other_labels_leave_the_queue(data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Videos are numbered anew, so that a key's number would be another video's: a copy might become a negative.
    train(recipe(data, tmp_path, stop_after=3, queue_size=1000))
    with open(data.copies, encoding="utf-8", newline="") as file:
        copies = [(row["copy_id"], row["source_id"]) for row in csv.DictReader(file)]
    fewer = write_csv(tmp_path / "fewer.csv", ("copy_id", "source_id"), *copies[8:])
    changed = {"copies": fewer, "queue_size": 1000, "max_missing_share": 1.0}
    train(recipe(data, tmp_path, stop_after=4, allow_changes=True, **changed))
    state = torch.load(tmp_path / "checkpoints" / "step-000004" / "state.pt", weights_only=True)
    assert state["task"]["queue"]["count"] == recipe(data, tmp_path).batch_size
    assert "the labels have changed" in capfd.readouterr().err
    train(recipe(data, tmp_path, stop_after=5, **changed))
    state = torch.load(tmp_path / "checkpoints" / "step-000005" / "state.pt", weights_only=True)
    assert state["task"]["queue"]["count"] == 2 * recipe(data, tmp_path).batch_size


def test_another_queue_and_another_momentum_can_be_allowed(
    data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(recipe(data, tmp_path, stop_after=3, momentum=0.0, queue_size=40))
    before = load_state(tmp_path, 3)["model"]
    settings = {"momentum": 0.9, "queue_size": 60, "lr": 1e-9}
    assert train(recipe(data, tmp_path, stop_after=4, allow_changes=True, **settings)) == ExitCode.STOPPED
    assert "the queue's size has changed, so the queue begins empty" in capfd.readouterr().err
    state = load_state(tmp_path, 4)
    assert state["task"]["queue"]["count"] == recipe(data, tmp_path).batch_size
    for name, value in state["task"]["key_encoder"].items():
        torch.testing.assert_close(value, before[name], msg=name)


@pytest.mark.parametrize("more", [{"projection": 16}, {"aggregator": "lstm", "output_dim": 16, "feedforward": 2048}])
def test_embeddings_are_of_unit_length_in_bfloat16_too(data: Data, tmp_path: Path, more: dict[str, Any]) -> None:
    train(recipe(data, tmp_path, stop_after=2, precision="bfloat16", momentum=0.0, **more))
    queue = load_state(tmp_path, 2)["task"]["queue"]
    norms = queue["keys"][: queue["count"]].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-6, rtol=0)


def test_settings_without_influence_may_change(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path, stop_after=3))
    assert train(recipe(data, tmp_path, log_every=5, keep_checkpoints=2)) == ExitCode.OK


def test_a_signal_ends_the_step_writes_a_checkpoint_and_returns_75(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelkin.train.objective.contrast import ContrastTask

    losses = ContrastTask.losses

    def signalled(self: ContrastTask, batch: Any, parts: int) -> Any:
        if batch.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, batch, parts)

    monkeypatch.setattr(ContrastTask, "losses", signalled)
    before = signal.getsignal(signal.SIGTERM)
    assert train(recipe(data, tmp_path)) == ExitCode.STOPPED
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "LAST").read_text() == "step-000004\n"
    assert outcome_of(tmp_path)["exit_code"] == 75


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_video(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = FeatureStore.features

    def poisoned(self: FeatureStore, video_id: str, *window: int) -> np.ndarray:
        found = features(self, video_id, *window)
        return found * np.float16("nan") if video_id == "s03__2" else found

    monkeypatch.setattr(FeatureStore, "features", poisoned)
    with start("single") as engine:
        config = recipe(data, tmp_path, batch_size=80, checkpoint_every=1)
        built = build(config, FeatureStore.open(data.store), engine)
        before = {name: value.clone() for name, value in built.trainer.task.model.state_dict().items()}
        with pytest.raises(
            ReelkinError, match=r"the loss of step 1 is not finite.* after step 0.* concerned: s03__2 \(rank 0\)\. Look"
        ):
            built.trainer.train()
        assert same(before, built.trainer.task.model.state_dict())
    with pytest.raises(ReelkinError):
        train(config)
    assert "s03__2" in outcome_of(tmp_path)["reason"] and outcome_of(tmp_path)["exit_code"] == 1


def test_a_gradient_that_is_not_finite_stops_before_the_update(data: Data, tmp_path: Path) -> None:
    with start("single") as engine:
        built = build(recipe(data, tmp_path), FeatureStore.open(data.store), engine)
        model = built.trainer.task.model
        next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ReelkinError, match=r"the gradient of step 1 is not finite.*s\d\d"):
            built.trainer.train()
        assert same(before, model.state_dict())


def test_the_log_holds_what_it_promises(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path, mining="topk", mined_negatives=5))
    rows = RunFolder(tmp_path).metrics()
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for row in rows:
        assert row["mined_similarity"] > row["negative_similarity"]
        for name in ("loss", "lr", "positive_similarity", "queue_fill", "grad_norm", "seconds", "samples_per_second"):
            assert isinstance(row[name], float), name
    assert rows[0]["queue_fill"] == pytest.approx(24 / 50) and rows[-1]["queue_fill"] == 1.0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"]["mining"] == "topk" and config["versions"]["torch"] == torch.__version__
    assert set(config["identity"]) == {"config", "features", "labels"}


def test_random_vectors_are_never_negatives(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path, steps=1, log_every=1, batch_negatives=False))
    assert RunFolder(tmp_path).metrics()[0]["negatives_per_anchor"] == 0
    train(recipe(data, tmp_path / "batch", steps=1, log_every=1))
    assert 0 < RunFolder(tmp_path / "batch").metrics()[0]["negatives_per_anchor"] < 12


def test_copies_of_the_anchor_are_never_negatives(tmp_path: Path) -> None:
    features = scene_features(scenes=2, copies=5)
    write_store(tmp_path / "store", {name: (each, np.arange(len(each)) * 1.0) for name, each in features.items()}, {})
    rows = [(name, name.partition("__")[0]) for name in features if "__" in name]
    edits = write_csv(tmp_path / "e.csv", ("copy_id", "source_id"), *rows)
    config = recipe(Data(tmp_path / "store", edits), tmp_path / "run", batch_size=12, steps=1, queue_size=0)
    train(dataclasses.replace(config, log_every=1))
    [row] = RunFolder(tmp_path / "run").metrics()
    assert row["negatives_per_anchor"] == 6, "a batch is all twelve videos, six of each scene"


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", math.inf), ("lr", math.nan), ("lr", math.inf), ("clip_norm", math.nan), ("weight_decay", math.inf),
     ("temperature", math.inf), ("circle_margin", math.nan), ("triplet_margin", math.inf), ("mining_margin", math.inf),
     ("deadline", math.inf), ("threads", -1), ("stop_after", 0)],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_by_their_flag(
    data: Data, tmp_path: Path, field: str, value: float
) -> None:
    with pytest.raises(UsageError, match=f"--{field.replace('_', '-')} is {value}"):
        recipe(data, tmp_path, **{field: value})


def test_initial_weights_depend_on_the_seed_and_not_on_torchs_state(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = build_model(recipe(data, tmp_path), 32).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(one, build_model(recipe(data, tmp_path), 32).state_dict())
    assert torch.equal(before, torch.get_rng_state())
    assert not same(one, build_model(recipe(data, tmp_path, seed=1), 32).state_dict())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "--steps is 0"),
        ({"lr": -1.0}, "--lr is -1.0"),
        ({"pairs": Path("x.csv")}, "--pairs and --copies were given; choose one"),
        ({"copies": None, "hold_out": 0.3}, "--hold-out takes its groups from a label file"),
        ({"queue_size": 0, "batch_negatives": False}, "leaves no negatives"),
        ({"queue_positives": False}, "leaves the queue empty"),
        ({"negatives": Path("x.txt")}, "--negatives names videos of which none is drawn"),
        ({"virtual_scenes": 1.5}, "--virtual-scenes is 1.5"),
        ({"momentum": 1.0}, "--momentum is 1.0"),
        ({"num_heads": 5}, "32 dimensions cannot be shared by 5 heads"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    data: Data, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(recipe(data, tmp_path, **fields))


def test_labels_of_a_single_group_are_refused_since_nothing_would_be_learnt(data: Data, tmp_path: Path) -> None:
    pairs = write_csv(tmp_path / "pairs.csv", ("query", "video"), ("s00", "s00__1"), ("s00", "s00__2"))
    config = recipe(data, tmp_path / "run", copies=None, pairs=pairs)
    with pytest.raises(UsageError, match=r"2 of 2 pairs of pairs.csv: all of them show the same thing, so no anchor"):
        train(config)
    assert train(dataclasses.replace(config, negatives_per_anchor=2)) == ExitCode.OK


def test_recipes_go_by_name() -> None:
    assert recipe_named(["--steps", "3"]) is recipe_named(["--recipe=tca"]) is RECIPES["tca"]
    with pytest.raises(UsageError, match="'tac' is unknown; choose one of tca"):
        recipe_named(["--recipe", "tac"])


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    config = LoopConfig(output=Path("x"), lr=1.0, warmup_steps=4)
    rates = [learning_rate(config, step, 24) for step in range(24)]
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[14] == pytest.approx(0.5) and rates[-1] < 0.01
    constant = LoopConfig(output=Path("x"), lr=1.0, warmup_steps=0, schedule="constant")
    assert {learning_rate(constant, step, 24) for step in range(24)} == {1.0}


def test_differences_are_named_by_field() -> None:
    old = {"config": {"lr": 1, "seed": 0}, "features": "a", "step": 5}
    assert differences(old, {"config": {"lr": 1, "seed": 0}, "features": "a"}) == []
    assert differences(old, {"config": {"lr": 2, "seed": 0}, "features": "b"}) == [
        "config.lr was 1, now 2",
        "features was a, now b",
    ]
