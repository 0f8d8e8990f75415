"""Model and run folders: whole or not there, checked when read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import torch

from reelkin.core.errors import ReelkinError
from reelkin.train.checkpoint import load_model, save_model
from reelkin.train.models.aggregators import build_aggregator
from reelkin.train.running.run_folder import RunFolder

FIELDS = {"dim": 16, "num_heads": 4, "feedforward": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(build_aggregator("tca", FIELDS), tmp_path / "model", {"trained on": "a | b", "steps": 3})
    return tmp_path / "model"


def test_a_model_comes_back_as_it_was_and_ready_to_use(folder: Path) -> None:
    torch.manual_seed(0)
    saved = build_aggregator("tca", FIELDS).eval()
    loaded = load_model(folder)
    assert not loaded.training and loaded.config == saved.config
    features, lengths = torch.randn(2, 5, 16), torch.tensor([5, 2])
    assert torch.equal(loaded(features, lengths), saved(features, lengths))


def test_mean_pooling_is_a_model_folder_too(tmp_path: Path) -> None:
    save_model(build_aggregator("mean", {"dim": 4}), tmp_path / "mean")
    assert load_model(tmp_path / "mean").name == "mean"


def test_the_folder_says_what_it_is(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["format"], config["version"], config["aggregator"], config["dim"]) == ("reelkin-model", 1, "tca", 16)
    card = (folder / "card.md").read_text()
    assert "| trained on | a \\| b |" in card and "licence" in card
    assert {stat.S_IMODE(path.stat().st_mode) & 0o444 for path in folder.iterdir()} == {0o444}


def test_saving_again_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "stray").touch()
    save_model(build_aggregator("mean", {"dim": 4}), folder)
    assert load_model(folder).name == "mean" and not (folder / "stray").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_damage_is_found_and_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ReelkinError, match=r"model\.safetensors is not the file that its config\.json speaks of"):
        load_model(folder)
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ReelkinError, match="cannot be read"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(ReelkinError, match="cannot be read"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no Reelkin model"),
        ({"version": 9}, "version 9; this program reads version 1"),
        ({"aggregator": "bert"}, "there is no aggregator 'bert'"),
        ({"aggregator": "lstm"}, "aggregator lstm has no field feedforward"),
        ({"depth": 3}, "has no field depth"),
        ({"num_layers": 2}, "do not fit its config.json"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ReelkinError, match=message):
        load_model(folder)


def test_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ReelkinError, match=r"cannot read .*config\.json"):
        load_model(tmp_path / "nothing")


def test_checkpoints_keep_the_newest_and_last_points_to_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (5, 10, 15, 20):
        run.save_checkpoint(step, {"value": torch.tensor(step)}, {"identity": {}}, keep=2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000015", "step-000020"]
    assert (tmp_path / "LAST").read_text() == "step-000020\n"
    found = run.last_checkpoint()
    assert found is not None and RunFolder.read_meta(found)["step"] == 20
    assert torch.load(found / "state.pt", weights_only=True) == {"value": torch.tensor(20)}


@pytest.mark.parametrize("fault", ["no marker", "cut state", "changed meta", "gone", "empty marker"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path, fault: str) -> None:
    run = RunFolder(tmp_path)
    for step in (5, 10):
        run.save_checkpoint(step, {"value": torch.zeros(100)}, {}, keep=3)
    newest = run.checkpoints / "step-000010"
    if fault == "no marker":
        (newest / "COMPLETE").unlink()
    elif fault == "cut state":
        (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-7])
    elif fault == "changed meta":
        (newest / "meta.json").write_text("{}")
    elif fault == "empty marker":
        (newest / "COMPLETE").write_text("{}")
    else:
        newest.rename(run.checkpoints / ".step-000010.partial-1")
    assert run.last_checkpoint() == run.checkpoints / "step-000005"


def test_a_missing_pointer_or_folder_is_no_obstacle(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.last_checkpoint() is None
    run.save_checkpoint(5, {}, {}, keep=1)
    (tmp_path / "run" / "LAST").unlink()
    assert run.last_checkpoint() == run.checkpoints / "step-000005"


def test_metrics_survive_a_cut_line_and_can_be_taken_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (10, 20, 30):
        run.log_metrics({"step": step, "loss": float("nan") if step == 20 else 0.5})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in run.metrics()] == [10, 20, 30]
    assert run.metrics()[1]["loss"] is None
    run.truncate_metrics(20)
    assert [row["step"] for row in run.metrics()] == [10, 20]
