"""A rank that is stopped, killed, lost or fails ends the whole run, soon and with its name."""

from __future__ import annotations

import functools
import json
import re
import runpy
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reelkin.core.engine.adasum import adasum

HERE = Path(__file__).parent
DEADLINE = 5.0
LAUNCHERS = ("torch", "horovod")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_fault(run_ranks: Callable, output: Path, launcher: str, fault: str, victim: int, deadline: float) -> str:
    """Run to the end; check that it failed in time and left no process behind. Returns the output."""
    finished = run_ranks(launcher, 2, "faults.py", str(output), str(deadline), fault, str(victim), timeout=90)
    assert finished.returncode != 0, finished.output
    assert "came through" not in finished.output
    seconds = finished.ended - float((output / "fault").read_text())
    assert seconds < 2 * deadline, f"ended after {seconds:.1f} s\n{finished.output}"
    pids = [int((output / f"pid-{rank}").read_text()) for rank in range(2)]
    until = time.monotonic() + 1
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, pids)), finished.output
    return finished.output


def test_a_stopped_rank_is_named_and_killed(run_ranks: Callable, tmp_path: Path) -> None:
    output = run_fault(run_ranks, tmp_path, "torch", "stop", 0, 4.0)
    pid = (tmp_path / "pid-0").read_text()
    assert "missing: rank 0 (host" in output
    assert f"pid {pid}) does not answer (stopped or gone)" in output
    assert "in all_reduce 'gradients of step 4#" in output
    assert "killed the silent rank 0" in output
    assert "most recent call first" in output  # the stacks


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("fault", ["stop", "kill", "wander", "raise", "exit"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_bad_rank_ends_the_run(run_ranks: Callable, tmp_path: Path, launcher: str, fault: str, victim: int) -> None:
    output = run_fault(run_ranks, tmp_path, launcher, fault, victim, DEADLINE)
    if fault == "stop":
        assert f"missing: rank {victim} (host" in output and "does not answer (stopped or gone)" in output
    if fault == "wander":
        assert f"missing: rank {victim} (host" in output and "is not in a collective" in output
        # Both ranks show their stacks; the lost one's say where it is.
        assert f"rank {victim} ends because another rank gave up" in output and "in misbehave" in output
    if fault == "raise":
        assert "ValueError: this rank has had enough" in output
    if victim == 1 and fault not in ("kill", "exit"):
        # Rank 0 has it in hand however it is ended itself.
        why = (
            "left with ValueError: this rank has had enough"
            if fault == "raise"
            else "over the deadline\\n  missing: rank 1"
        )
        assert re.search(rf"^False rank .*{why}", (tmp_path / "told").read_text(), re.DOTALL)
    if fault in ("raise", "exit", "stop"):
        # Where the other rank waits; or the launcher was quicker and ended it before it could say so.
        assert "gradients of step 4" in output or (fault != "stop" and "SIGTERM" in output)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failing_rank_does_not_wait_for_a_stopped_one(run_ranks: Callable, tmp_path: Path, launcher: str) -> None:
    # The deadline is far away: what ends the failing rank is the limit on its way out. The launcher then waits for the
    # stopped one: horovodrun 5 s, torchrun 30 s.
    finished = run_ranks(launcher, 2, "faults.py", str(tmp_path), "600", "stop-other-raises", "1", timeout=90)
    assert finished.returncode != 0
    assert "ValueError: this rank has had enough" in finished.output
    assert finished.ended - float((tmp_path / "fault").read_text()) < 45


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_work_of_rank_0_may_take_longer_than_the_deadline_if_extended(
    run_ranks: Callable, tmp_path: Path, launcher: str
) -> None:
    finished = run_ranks(launcher, 2, "faults.py", str(tmp_path), "2", "slow", "0")
    assert finished.returncode == 0, finished.output
    assert finished.output.count("came through") == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_four_ranks_train_to_the_same_bits_again_and_again(run_ranks: Callable, tmp_path: Path, launcher: str) -> None:
    found: dict[str, set[str]] = {"none": set(), "fp16": set()}
    for run in range(2):
        finished = run_ranks(launcher, 4, "reruns.py", str(tmp_path / str(run)))
        assert finished.returncode == 0, finished.output[-4000:]
        for compression, digests in json.loads((tmp_path / str(run)).read_text()).items():
            assert len(digests) == 4
            found[compression] |= set(digests)
    assert len(found["none"]) == len(found["fp16"]) == 1
    assert found["none"] != found["fp16"]


@functools.cache
def mpi_is_built() -> bool:
    try:
        check = subprocess.run(["horovodrun", "--check-build"], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "[X] MPI\n" in check.stdout and shutil.which("mpirun") is not None


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_adasum_over_mpi_equals_the_rule(run_ranks: Callable, bin_on_path: None, tmp_path: Path, ranks: int) -> None:
    if not mpi_is_built():
        pytest.skip("needs mpirun and a Horovod that was built with HOROVOD_WITH_MPI=1")
    finished = run_ranks("mpi", ranks, "adasum.py", str(tmp_path))
    assert finished.returncode == 0, finished.output[-4000:]
    gradients_of = runpy.run_path(str(HERE / "workers" / "adasum.py"), run_name="worker")["gradients_of"]
    for position in range(3):
        want = adasum([gradients_of(rank)[position].flatten() for rank in range(ranks)])
        for rank in range(ranks):
            found = json.loads((tmp_path / f"{rank}.json").read_text())
            torch.testing.assert_close(torch.tensor(found["none"][position]), want, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(torch.tensor(found["fp16"][position]), want, atol=2e-2, rtol=5e-3)


@pytest.mark.slow
def test_a_rank_that_never_comes_to_the_start_is_reported(run_ranks: Callable, tmp_path: Path) -> None:
    began = time.monotonic()
    finished = run_ranks("torch", 2, "never_starts.py", timeout=60)
    assert finished.returncode != 0
    assert "in the start of the engine, over the deadline" in finished.output
    assert "not all 2 ranks arrived" in finished.output
    assert time.monotonic() - began < 40
