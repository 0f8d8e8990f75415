"""What a run would cost is measured without leaving a trace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reelkin.core.errors import ExitCode, UsageError
from reelkin.train.running.run_folder import RunFolder

from .conftest import RUN, Data, Launch
from .test_training import recipe, train


def test_a_dry_run_says_what_a_run_would_be_and_writes_nothing(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe(data, tmp_path / "run", dry_run=True)) == ExitCode.OK
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    config = json.loads(said[: said.rindex("}") + 1])
    assert config["features"] == str(data.store) and config["dry_run"] is True
    found = re.search(r"(\d+) steps of (\d+) anchors on 1 ranks: about .* a step\)", said)
    assert found and int(found[2]) == config["batch_size"]
    expected = float(re.search(r"disk (\d+) MB a checkpoint", said)[1])  # type: ignore[index]
    assert train(recipe(data, tmp_path / "run")) == ExitCode.OK
    folder = RunFolder(tmp_path / "run").last_checkpoint()
    assert folder is not None
    assert (folder / "state.pt").stat().st_size / 1e6 == pytest.approx(expected, abs=0.6)


def test_memory_and_disk_of_a_real_run_are_as_foretold(data: Data, tmp_path: Path) -> None:
    flags = ["--features", data.store, "--copies", data.copies, "--output", tmp_path / "run", "--steps", 4]
    flags += ["--batch-size", 12, "--feedforward", 100_000, "--queue-size", 400_000, "--hold-out", 0.2, "--threads", 1]
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    script += "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    words = [sys.executable, "-c", script, sys.executable, str(RUN), *map(str, flags)]
    said = subprocess.run([*words, "--dry-run"], capture_output=True, text=True, check=True).stdout
    memory = float(re.search(r"up to ([0-9.]+) GB while it saves", said)[1])  # type: ignore[index]
    disk = float(re.search(r"disk (\d+) MB a checkpoint", said)[1])  # type: ignore[index]
    done = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    peak = float(re.search(r"peak (\d+)", done)[1])  # type: ignore[index]
    # "Up to": rather too much than too little. What the allocator gives back between two steps is a matter of chance.
    assert 0.8 * peak / 1e9 < memory < 1.6 * peak / 1e9
    folder = RunFolder(tmp_path / "run").last_checkpoint()
    assert folder is not None
    assert (folder / "state.pt").stat().st_size / 1e6 == pytest.approx(disk, abs=1)


def test_a_dry_run_refuses_what_a_run_refuses_and_writes_nothing_then_either(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--num-heads"):
        train(recipe(data, tmp_path / "run", dry_run=True, num_heads=7))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_leaves_a_finished_run_as_it_is(data: Data, tmp_path: Path) -> None:
    assert train(recipe(data, tmp_path)) == ExitCode.OK
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(recipe(data, tmp_path, dry_run=True)) == ExitCode.OK
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_two_ranks_measure_together_and_say_it_once(data: Data, tmp_path: Path, launch: Launch) -> None:
    flags = ["--features", data.store, "--copies", data.copies, "--output", tmp_path / "run", "--steps", 30]
    finished = launch("torch", RUN, *flags, "--dry-run")
    assert finished.returncode == 0, finished.output[-3000:]
    assert finished.output.count("30 steps of 64 anchors on 2 ranks") == 1
    assert not (tmp_path / "run").exists()
