"""Metrics beside metrics.jsonl, and what a person sees while a run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reelkin.core.errors import ExitCode, ReelkinError, UsageError
from reelkin.train.objective.contrast import ContrastTask
from reelkin.train.recipes.tca import TcaRecipe
from reelkin.train.running.run_folder import RunFolder
from reelkin.train.running.telemetry import Telemetry, figures
from reelkin.train.session import RECIPES, run

from .conftest import Data


def recipe(data: Data, output: Path, **fields: Any) -> TcaRecipe:
    small: dict[str, Any] = {
        "copies": data.copies, "steps": 8, "batch_size": 12, "queue_size": 50, "feedforward": 32, "log_every": 1,
        "checkpoint_every": 3, "warmup_steps": 2, "threads": 1,
    }  # fmt: skip
    return TcaRecipe(features=data.store, output=output, **(small | fields))


def train(config: TcaRecipe) -> int:
    return run(RECIPES["tca"], config)


def test_figures_are_named_by_where_they_come_from() -> None:
    row = {"step": 3, "loss": 0.5, "queue": 2, "nothing": None, "validation": {"map": 0.25, "text": "x"}}
    assert dict(figures(row)) == {"train/loss": 0.5, "train/queue": 2.0, "validation/map": 0.25}


def test_tensorboard_holds_each_step_once_even_of_a_run_in_parts(data: Data, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options: dict[str, Any] = {"log_to": ("tensorboard",), "hold_out": 0.3, "validate_every": 4}
    train(recipe(data, tmp_path, stop_after=5, **options))
    # Steps 6 and 7 are made, logged, and lost with the process that made them.
    RunFolder(tmp_path).log_metrics({"step": 6, "loss": 99.0})
    assert train(recipe(data, tmp_path, **options)) == ExitCode.OK
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = [row for row in RunFolder(tmp_path).metrics() if "loss" in row]
    found = events.Scalars("train/loss")
    assert [event.step for event in found] == list(range(1, 9))
    assert [event.value for event in found] == pytest.approx([row["loss"] for row in rows])
    assert [event.step for event in events.Scalars("validation/map")] == [4, 8]


@pytest.mark.slow
def test_wandb_is_told_each_step_once(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    rows = [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    with Telemetry(tmp_path, ("wandb",), rows, enabled=True) as telemetry:
        [sink] = telemetry._sinks
        assert sink._run.step == 3
        telemetry.write({"step": 4, "loss": 0.1})
        sink._known = 5  # as after joining a run that has step 5 already
        telemetry.write({"step": 5, "loss": 9.0})
        telemetry.write({"step": 6, "loss": 0.2})  # a step is counted once the next one comes
        assert sink._run.summary["train/loss"] == 0.1
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_wandb_without_an_account_is_said_with_the_remedy(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads its settings once in a process
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"--log-to wandb: .*WANDB_MODE=offline"):
        train(recipe(data, tmp_path / "run", log_to=("wandb",)))


def test_without_mining_nothing_is_called_mined(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path / "none", steps=2))
    train(recipe(data, tmp_path / "topk", steps=2, mining="topk"))
    for name, mined in (("none", False), ("topk", True)):
        assert ["mined_similarity" in row for row in RunFolder(tmp_path / name).metrics()] == [mined] * 2


@pytest.mark.parametrize(("sink", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_sink_that_is_not_installed_is_said_with_the_remedy(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"--log-to {sink}: it is not installed .*pip install 'reelkin\[{sink}\]'"):
        train(recipe(data, tmp_path, log_to=(sink,)))


def test_a_folder_that_tensorboard_cannot_have_is_said(data: Data, tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(ReelkinError, match=r"cannot write .*tensorboard: File exists; move it away"):
        train(recipe(data, tmp_path, log_to=("tensorboard",)))


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with Telemetry(tmp_path, ("tensorboard", "wandb"), [{"step": 1, "loss": 1.0}], enabled=False) as telemetry:
        telemetry.write({"step": 2, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_person_sees_loss_similarities_rate_time_left_and_waiting(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reelkin.core.progress.FIRST_LINE_SECONDS", 0.0)
    monkeypatch.setattr("reelkin.core.progress.LINE_EVERY_SECONDS", 0.0)
    train(recipe(data, tmp_path, mining="topk", stop_after=6))
    capfd.readouterr()
    train(recipe(data, tmp_path, mining="topk"))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("training: ")]
    assert lines[0].startswith("training: 7/8 steps, ") and " left, loss " in lines[0]
    for part in ("positive first ", "positives ", "negatives ", "mined ", " samples/s", "waiting for data "):
        assert part in lines[0]
    # Steps of an earlier start say nothing about the rate.
    rate = float(lines[-1].partition("steps, ")[2].partition(" steps/s")[0])
    seconds = float(lines[-1].partition("steps/s, ")[2].partition(" s in all")[0])
    assert rate * (seconds - 0.05) <= 2.2 and rate * (seconds + 0.05) >= 1.8  # seconds are shown with one decimal


def test_waiting_for_data_is_measured(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = ContrastTask.batches

    def slow(self: ContrastTask, steps: range) -> Iterator[Any]:
        for batch in batches(self, steps):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(ContrastTask, "batches", slow)
    train(recipe(data, tmp_path, log_every=8))
    [row] = RunFolder(tmp_path).metrics()
    assert row["waiting_for_data"] * row["seconds"] + 0.01 >= 0.8 and row["waiting_for_data"] <= 1
