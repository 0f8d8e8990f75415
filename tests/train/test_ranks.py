"""Training under the real launchers: the number of ranks changes nothing, and stopping works there too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from reelkin.core.errors import ExitCode
from reelkin.train.checkpoint import load_model
from reelkin.train.running.run_folder import RunFolder

from .conftest import BIN, ROOT, RUN, Data, Launch, command_for


def flags(data: Data, output: Path, **changed: object) -> list[str]:
    given: dict[str, object] = {
        "features": data.store, "copies": data.copies, "output": output, "steps": 8, "batch-size": 13,
        "queue-size": 40, "feedforward": 32, "log-every": 2, "checkpoint-every": 3, "warmup-steps": 2,
    } | {name.replace("_", "-"): value for name, value in changed.items()}  # fmt: skip
    return [str(word) for name, value in given.items() for word in (f"--{name}", value)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "horovod"])
def test_two_ranks_resume_to_the_same_bits(data: Data, tmp_path: Path, launch: Launch, backend: str) -> None:
    finished = launch(backend, RUN, *flags(data, tmp_path / "whole"))
    assert finished.returncode == 0, finished.output[-4000:]
    stopped = launch(backend, RUN, *flags(data, tmp_path / "parts", stop_after=5))
    assert stopped.returncode != 0
    outcome = json.loads((tmp_path / "parts" / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["steps"], outcome["ranks"]) == (75, 5, 2)
    finished = launch(backend, RUN, *flags(data, tmp_path / "parts"))
    assert finished.returncode == 0, finished.output[-4000:]
    one, two = (load_model(tmp_path / name / "model").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(data: Data, tmp_path: Path, launch: Launch) -> None:
    assert launch("single", RUN, *flags(data, tmp_path / "one")).returncode == 0
    launch("torch", RUN, *flags(data, tmp_path / "both", stop_after=4))
    assert launch("single", RUN, *flags(data, tmp_path / "both")).returncode == 0
    one, two = (load_model(tmp_path / name / "model").state_dict() for name in ("one", "both"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(data: Data, tmp_path: Path) -> None:
    words = command_for("torch", 2) + [str(RUN), *flags(data, tmp_path, steps=100_000, checkpoint_every=10**6)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        until = time.monotonic() + 90
        while not RunFolder(tmp_path).metrics() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if "run.py" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(workers) == 2
        os.kill(int(workers[1]), signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["exit_code"] == ExitCode.STOPPED, output[-3000:]
    found = RunFolder(tmp_path).last_checkpoint()
    assert found is not None and RunFolder.read_meta(found)["step"] == outcome["steps"]


@pytest.mark.parametrize("backend", ["single", pytest.param("horovod", marks=pytest.mark.slow)])
def test_without_arguments_it_says_once_what_it_needs(launch: Launch, backend: str) -> None:
    finished = launch(backend, RUN)
    assert finished.output.count("Missing from train/run.py") == 1, finished.output
    assert "--features" in finished.output and "horovodrun -np 2 train/run.py" in finished.output
    assert finished.returncode == (2 if backend == "single" else 1)  # horovodrun turns every failure into 1


def test_the_script_is_executable_and_shows_its_help(launch: Launch) -> None:
    assert os.access(RUN, os.X_OK)
    finished = launch("single", RUN, "--help")
    assert finished.returncode == 0
    for flag in ("--copies", "--vcdb", "--mining", "--queue-size", "--resume", "--validate-groups"):
        assert flag in finished.output
    assert len(RUN.read_text().splitlines()) < 40 and ROOT.name


def test_a_missing_store_is_one_clear_line(tmp_path: Path, launch: Launch) -> None:
    finished = launch("single", RUN, "--features", tmp_path / "nothing", "--output", tmp_path / "run")
    assert finished.returncode == 2
    assert f"the features {tmp_path / 'nothing'} do not exist; give" in finished.output
    assert "Traceback" not in finished.output
