"""outcome.json tells how the last run ended that began, and is not lost to a start that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reelkin.core.errors import ReelkinError
from reelkin.train.recipes.tca import TcaRecipe
from reelkin.train.running.run_folder import RunFolder
from reelkin.train.session import RECIPES, run


def outcome(folder: Path) -> dict:
    return dict(json.loads((folder / "outcome.json").read_text()))


def test_a_failed_start_leaves_the_outcome_of_a_finished_run(tmp_path: Path) -> None:
    config = TcaRecipe(features=tmp_path / "nowhere", output=tmp_path / "run", backend="single")
    with pytest.raises(ReelkinError, match="do not exist"):
        run(RECIPES["tca"], config)
    assert outcome(tmp_path / "run")["exit_code"] == 2  # there was none before
    RunFolder(tmp_path / "run").write_outcome(0, "complete", steps=7)
    with pytest.raises(ReelkinError, match="do not exist"):
        run(RECIPES["tca"], config)
    assert outcome(tmp_path / "run") == {"exit_code": 0, "reason": "complete", "steps": 7}


def test_a_run_that_began_writes_how_it_failed(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_outcome(0, "complete")
    folder = RunFolder(tmp_path)
    folder.announce({"config": {}})
    assert outcome(tmp_path) == {"exit_code": None, "reason": "running"}
    folder.write_failure(1, "boom")
    assert outcome(tmp_path) == {"exit_code": 1, "reason": "boom"}
