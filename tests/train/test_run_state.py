"""What a run keeps: checkpoints that survive damage and full disks, the best model, generators, one run a folder."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.core.engine.rng import rng_state, seed_rng, set_rng_state
from reelkin.core.errors import ExitCode, ReelkinError, UsageError
from reelkin.train.checkpoint import load_model, save_model
from reelkin.train.models.tca import TCA, TCAConfig
from reelkin.train.objective.contrast import ContrastTask
from reelkin.train.recipes.tca import TcaRecipe
from reelkin.train.running.best import Best
from reelkin.train.running.run_folder import RunFolder
from reelkin.train.session import RECIPES, run

from .conftest import Data


def recipe(data: Data, output: Path, **fields: Any) -> TcaRecipe:
    small: dict[str, Any] = {
        "copies": data.copies, "steps": 9, "batch_size": 12, "queue_size": 50, "feedforward": 32, "log_every": 2,
        "checkpoint_every": 3, "warmup_steps": 2, "threads": 1,
    }  # fmt: skip
    return TcaRecipe(features=data.store, output=output, **(small | fields))


def train(config: TcaRecipe) -> int:
    return run(RECIPES["tca"], config)


def weights(folder: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_model(folder / name).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def steps_kept(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[2]) for path in (folder / "checkpoints").iterdir())


def logged(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    clock = {"seconds", "samples_per_second", "waiting_for_data"}
    return [{key: each for key, each in row.items() if key not in clock} for row in RunFolder(folder).metrics()]


# -- checkpoints


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "missing", "meta"])
def test_of_a_damaged_newest_checkpoint_the_one_before_is_taken_and_said(
    data: Data, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe(data, tmp_path / "whole")) == ExitCode.OK
    train(recipe(data, tmp_path / "run", stop_after=6))
    assert steps_kept(tmp_path / "run") == [3, 6]
    newest = tmp_path / "run" / "checkpoints" / "step-000006"
    state = newest / "state.pt"
    content = bytearray(state.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "cut short":
        state.write_bytes(content[:-1])
    elif damage == "missing":
        state.unlink()
    else:
        (newest / "meta.json").write_text("{}")
    capfd.readouterr()
    assert train(recipe(data, tmp_path / "run")) == ExitCode.OK
    said = capfd.readouterr().err
    assert "step-000006 is damaged" in said and "going on from step 3" in said
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert logged(tmp_path / "whole") == logged(tmp_path / "run")


def test_the_newest_checkpoints_are_kept_and_those_of_a_left_future_are_not(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path, checkpoint_every=1, keep_checkpoints=2))
    assert steps_kept(tmp_path) == [8, 9]
    shutil.rmtree(tmp_path / "checkpoints" / "step-000009")
    (tmp_path / "LAST").write_text("step-000004\n")
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(5, {}, {}, keep=2)
    assert steps_kept(tmp_path) == [5] and folder.last_checkpoint() == tmp_path / "checkpoints" / "step-000005"
    for step in (6, 7):
        folder.save_checkpoint(step, {}, {}, keep=2)
    assert steps_kept(tmp_path) == [6, 7]


def test_a_run_stopped_by_its_flag_says_that_the_flag_has_to_go(data: Data, tmp_path: Path) -> None:
    for _ in range(2):  # the same command again has nothing to do
        assert train(recipe(data, tmp_path, stop_after=2)) == ExitCode.STOPPED
        outcome = json.loads((tmp_path / "outcome.json").read_text())
        assert outcome["steps"] == 2
        assert outcome["reason"].startswith("stopped by --stop-after 2; the same command without it")
    assert train(recipe(data, tmp_path, stop_after=1)) == ExitCode.STOPPED, "what is behind is no reason to go on"
    assert json.loads((tmp_path / "outcome.json").read_text())["steps"] == 2


def test_one_checkpoint_is_too_few(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--keep-checkpoints is 1; at least 2"):
        recipe(data, tmp_path, keep_checkpoints=1)


def test_a_checkpoint_of_another_format_is_refused(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path, stop_after=2))
    meta = RunFolder.read_meta(tmp_path / "checkpoints" / "step-000002")
    assert meta["run"] == {"format": 1, "ranks": 1, "epoch": pytest.approx(2 * 12 / 80)}
    RunFolder(tmp_path).save_checkpoint(3, {}, {**meta, "run": {"format": 2}}, keep=2)
    with pytest.raises(UsageError, match="is of format 2; this program reads 1"):
        train(recipe(data, tmp_path))


@pytest.mark.parametrize("stops", [(5,), (1, 2, 3, 4, 6, 7, 8)])
def test_a_run_in_parts_logs_what_an_undisturbed_one_does(data: Data, tmp_path: Path, stops: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"hold_out": 0.3, "validate_every": 4, "log_every": 3}
    train(recipe(data, tmp_path / "whole", **options))
    for stop in stops:
        assert train(recipe(data, tmp_path / "parts", stop_after=stop, **options)) == ExitCode.STOPPED
    assert train(recipe(data, tmp_path / "parts", **options)) == ExitCode.OK
    rows = logged(tmp_path / "parts")
    assert [row["step"] for row in rows] == [3, 4, 6, 8, 9, 9]
    assert rows == logged(tmp_path / "whole")
    for name in ("model", "best"):
        assert same(weights(tmp_path / "whole", name), weights(tmp_path / "parts", name))


def test_rows_of_a_run_killed_before_its_first_checkpoint_are_not_kept(data: Data, tmp_path: Path) -> None:
    RunFolder(tmp_path).log_metrics({"step": 2, "loss": 7.0})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'5\n[1]\n\xff\xfe\n{"step": 4, "lo')
    train(recipe(data, tmp_path))
    assert [row["step"] for row in RunFolder(tmp_path).metrics()] == [2, 4, 6, 8, 9]
    assert RunFolder(tmp_path).metrics()[0]["loss"] != 7.0


# -- the generators of torch, numpy and Python


def draws() -> list[float]:
    return [float(torch.rand(())), float(np.random.standard_normal()), random.random(), random.gauss(0, 1)]


def test_generators_go_on_from_where_they_were() -> None:
    cpu = torch.device("cpu")
    seed_rng(5, rank=1)
    draws()  # leaves numpy and Python with a spare normal
    state = rng_state(cpu)
    first = [draws() for _ in range(400)]  # more than a block of the twister
    seed_rng(5, rank=2)
    assert draws() != first[0]
    set_rng_state(state, cpu)
    assert [draws() for _ in range(400)] == first


def test_a_task_that_draws_from_global_generators_resumes_exactly(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = ContrastTask.losses

    def noisy(self: ContrastTask, batch: Any, parts: int) -> Any:
        for part in losses(self, batch, parts):
            noise = float(torch.rand(())) + np.random.rand() + random.random()
            part.per_anchor = part.per_anchor * noise
            yield part

    monkeypatch.setattr(ContrastTask, "losses", noisy)
    train(recipe(data, tmp_path / "whole"))
    train(recipe(data, tmp_path / "parts", stop_after=4))
    draws()
    train(recipe(data, tmp_path / "parts"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")


# -- validation: best and patience


def test_best_is_the_model_of_the_best_validation(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([0.5, 0.7, 0.6, 0.7])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(self: ContrastTask) -> dict[str, float]:
        seen.append({name: each.clone() for name, each in self.model.state_dict().items()})
        return {"map": next(figures)}

    monkeypatch.setattr(ContrastTask, "validate", validate)
    assert train(recipe(data, tmp_path, steps=8, validate_every=2)) == ExitCode.OK
    assert same(weights(tmp_path, "best"), seen[1]) and not same(seen[1], seen[0])
    assert same(weights(tmp_path), seen[3])
    facts = json.loads((tmp_path / "best" / "config.json").read_text())["facts"]
    assert (facts["map"], facts["step"], facts["best by"]) == (0.7, 4, "validation map")
    assert "recipe" in facts


def test_patience_ends_a_run_early_and_for_good(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def falling(tenth: list[int]) -> None:
        monkeypatch.setattr(ContrastTask, "validate", lambda self: {"map": 1 / (tenth.append(0) or len(tenth))})

    options: dict[str, Any] = {"steps": 40, "validate_every": 2, "patience": 3, "hold_out": 0.3}
    falling([])
    assert train(recipe(data, tmp_path / "whole", **options)) == ExitCode.OK
    outcome = json.loads((tmp_path / "whole" / "outcome.json").read_text())
    assert outcome["steps"] == 8 and "finished early: no better validation in 3 since step 2" in outcome["reason"]
    assert RunFolder(tmp_path / "whole").metrics()[-1] == {"step": 8, "validation": {"map": 0.25}}
    before = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert train(recipe(data, tmp_path / "whole", **options)) == ExitCode.OK
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == before
    # The count goes on over a stop, and the best stays the best.
    count: list[int] = []
    falling(count)
    assert train(recipe(data, tmp_path / "parts", stop_after=5, **options)) == ExitCode.STOPPED
    shutil.rmtree(tmp_path / "parts" / "best")
    assert train(recipe(data, tmp_path / "parts", **options)) == ExitCode.OK
    assert len(count) == 4 and json.loads((tmp_path / "parts" / "outcome.json").read_text())["steps"] == 8
    for name in ("best", "model"):
        assert same(weights(tmp_path / "whole", name), weights(tmp_path / "parts", name))


def test_a_best_model_from_after_the_checkpoint_is_taken_back(data: Data, tmp_path: Path) -> None:
    options: dict[str, Any] = {"hold_out": 0.3, "validate_every": 2}
    train(recipe(data, tmp_path, stop_after=3, **options))
    kept = weights(tmp_path, "best")
    shutil.rmtree(tmp_path / "best")
    train(recipe(data, tmp_path, stop_after=3, **options))
    assert same(kept, weights(tmp_path, "best"))
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "LAST").unlink()
    train(recipe(data, tmp_path, stop_after=1, **options))
    assert not (tmp_path / "best").exists()


def test_the_best_of_other_held_out_videos_is_forgotten(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ContrastTask, "validate", lambda self: {"map": 1 / len(self.validator.video_ids)})
    train(recipe(data, tmp_path, hold_out=0.2, validate_every=2, stop_after=5))
    assert train(recipe(data, tmp_path, hold_out=0.4, validate_every=2, allow_changes=True)) == ExitCode.OK
    assert "the labels have changed; the best validation so far (0.0666667) is forgotten" in capfd.readouterr().err
    facts = json.loads((tmp_path / "best" / "config.json").read_text())["facts"]
    assert (facts["map"], facts["step"]) == (1 / 30, 6)


def test_what_cannot_change_in_mid_run_is_said(data: Data, tmp_path: Path) -> None:
    train(recipe(data, tmp_path, stop_after=2))
    for change in ({"num_layers": 2}, {"weight_decay_on": "all"}):
        with pytest.raises(ReelkinError, match=r"step 2 does not fit this run: .{20,300}\. What shapes .* --output"):
            train(recipe(data, tmp_path, allow_changes=True, **change))


def test_what_is_no_number_is_never_the_best() -> None:
    best, model = Best(), torch.nn.Linear(1, 1)
    assert not best.see(float("nan"), 1, model) and best.weights == {}
    assert best.see(0.1, 2, model) and not best.see(float("nan"), 3, model) and not best.see(0.1, 4, model)
    assert best.waiting == 2 and best.exhausted(2) and not best.exhausted(3) and not best.exhausted(0)


# -- the folder


def test_two_runs_do_not_share_a_folder(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelkin.train.running.run_folder.LOCK_SECONDS", 0.0)
    code = (
        "import fcntl, sys\n"
        f"file = open({str(tmp_path / '.lock')!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        folder = RunFolder(tmp_path)
        with pytest.raises(UsageError, match="is in use: another process is training there"):
            folder.lock(seconds=0.0)
        other.kill()
    folder.lock(seconds=10.0)
    with pytest.raises(UsageError, match=rf"is in use: process {os.getpid()} on \S+ is training there"):
        RunFolder(tmp_path).lock(seconds=0.0)
    folder.unlock()
    assert train(recipe(data, tmp_path, steps=1)) == ExitCode.OK


def test_the_folder_is_a_runs_own_until_its_model_is_written(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []

    def save(model: torch.nn.Module, folder: Path, facts: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="is in use"):
            RunFolder(tmp_path).lock(seconds=0.0)
        saved.append(folder)

    monkeypatch.setattr("reelkin.train.session.save_model", save)
    assert train(recipe(data, tmp_path, steps=1)) == ExitCode.OK
    assert saved == [tmp_path / "model"]
    RunFolder(tmp_path).lock(seconds=0.0)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    path = tmp_path / "small"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def free(path: Path) -> int:
    return os.statvfs(path).f_bavail * os.statvfs(path).f_bsize


def test_a_full_disk_leaves_the_checkpoint_before_and_the_same_command_goes_on(
    data: Data, tmp_path: Path, small: Path
) -> None:
    assert train(recipe(data, tmp_path / "whole")) == ExitCode.OK
    assert train(recipe(data, small / "run", stop_after=4)) == ExitCode.STOPPED
    assert steps_kept(small / "run") == [3, 4]
    (small / "fill").write_bytes(b"x" * (free(small) - 60_000))
    with pytest.raises(ReelkinError, match=r"cannot write .*step-000006: No space left on device\. Make room"):
        train(recipe(data, small / "run"))
    assert steps_kept(small / "run") == [3, 4] and RunFolder(small / "run").last_checkpoint() is not None
    assert [path for path in small.rglob("*") if "partial" in path.name] == []
    (small / "fill").unlink()
    assert train(recipe(data, small / "run")) == ExitCode.OK
    assert same(weights(tmp_path / "whole"), weights(small / "run"))
    assert logged(tmp_path / "whole") == logged(small / "run")


def test_a_disk_too_full_for_a_model_is_said_with_its_folder(small: Path) -> None:
    model = TCA(TCAConfig(dim=64, feedforward=512))
    save_model(model, small / "model")
    (small / "fill").write_bytes(b"x" * (free(small) - 60_000))
    with pytest.raises(ReelkinError, match=r"cannot write .*model: No space left on device\. Make room"):
        save_model(model, small / "model")
    (small / "fill").unlink()
    assert same(weights(small), model.state_dict()), "the model before stands"
    assert [path for path in small.rglob("*") if "partial" in path.name] == []


def test_a_line_of_metrics_that_does_not_fit_leaves_no_part_of_it(small: Path) -> None:
    folder = RunFolder(small / "run")
    folder.log_metrics({"step": 1, "note": "a" * 100})
    (small / "fill").write_bytes(b"x" * free(small))
    with pytest.raises(ReelkinError, match=r"cannot write .*metrics\.jsonl: No space left on device"):
        for step in range(2, 200):
            folder.log_metrics({"step": step, "note": "a" * 100})
    lines = (small / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1)) and lines


# -- nothing is begun again over what is left of a run


@pytest.mark.parametrize("loss", ["all damaged", "all deleted"])
def test_a_run_whose_checkpoints_are_lost_is_not_begun_again_over_its_results(
    data: Data, tmp_path: Path, loss: str
) -> None:
    config = recipe(data, tmp_path, hold_out=0.2, validate_every=2)
    assert train(config) == ExitCode.OK
    before = {name: (tmp_path / name).read_bytes() for name in ("metrics.jsonl", "best/model.safetensors")}
    if loss == "all deleted":
        shutil.rmtree(tmp_path / "checkpoints")
    else:
        for state in (tmp_path / "checkpoints").glob("*/state.pt"):
            state.write_bytes(state.read_bytes()[:-1])
    for resume in ("auto", "never"):
        with pytest.raises(ReelkinError, match=r"had checkpoints \(step-000009.*none of them is there and whole"):
            train(dataclasses.replace(config, resume=resume))
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    (tmp_path / "LAST").unlink()
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    assert train(config) == ExitCode.OK


@pytest.mark.parametrize("name", ["LAST", "metrics.jsonl"])
def test_what_cannot_be_read_of_a_run_folder_is_said_in_a_line(data: Data, tmp_path: Path, name: str) -> None:
    train(recipe(data, tmp_path, stop_after=2))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ReelkinError, match=rf"cannot read .*{name}: Is a directory"):
        train(recipe(data, tmp_path))
