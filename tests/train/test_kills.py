"""A run that is killed twenty times, at any moment, ends in the weights of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.launch.run_ranks import descendants, rank_environment, workers
from reelkin.train.running.run_folder import RunFolder

from .conftest import RUN, Data, command_for

KILLS = 20
STEPS = 200
END_SECONDS = 240.0
AIMS = ("starting", "saving", "saving", "stepping", "stepping")


def command(backend: str, ranks: int, data: Data, output: Path) -> list[str]:
    flags: dict[str, object] = {
        "features": data.store, "copies": data.copies, "output": output, "steps": STEPS, "batch-size": 13,
        "queue-size": 40, "negatives-per-anchor": 1, "feedforward": 32, "dropout": 0.2, "log-every": 1,
        "checkpoint-every": 4, "warmup-steps": 2, "threads": 1,
    }  # fmt: skip
    return command_for(backend, ranks) + [
        str(RUN),
        *(str(word) for name, value in flags.items() for word in (f"--{name}", value)),
    ]


class Run:
    """One start of the run, by a real launcher, in a session of its own."""

    def __init__(self, words: list[str], ranks: int, output: Path) -> None:
        self.output, self.ranks = output, ranks
        self._announced = self._outcome_time()
        with open(output.with_name(output.name + ".log"), "ab") as log:
            self.process = subprocess.Popen(
                words, env=rank_environment(ranks), stdout=log, stderr=log, start_new_session=True
            )
        self.begun = time.monotonic()

    def pids(self) -> dict[int, int]:
        """The ranks' own processes by rank, as far as they have started; under ``ranks`` the launcher."""
        found = {}
        for pid in workers(self.process.pid):
            try:
                entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            for entry in entries:
                if entry.startswith((b"RANK=", b"HOROVOD_RANK=")):
                    found[int(entry.partition(b"=")[2])] = pid
        return {**found, self.ranks: self.process.pid}

    def _outcome_time(self) -> int:
        file = self.output / "outcome.json"
        return file.stat().st_mtime_ns if file.exists() else 0

    def step(self) -> int:
        """The last step that this start, or one before, has logged; 0 until this start has begun."""
        rows = RunFolder(self.output).metrics() if self._outcome_time() != self._announced else []
        return int(rows[-1]["step"]) if rows else 0

    def saving(self) -> bool:
        """Whether a checkpoint is being written now."""
        folder = self.output / "checkpoints"
        return folder.is_dir() and any(".partial-" in name for name in os.listdir(folder))

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; False if the run ended before."""
        while self.process.poll() is None:
            assert time.monotonic() - self.begun < END_SECONDS, self.output.with_name(self.output.name + ".log")
            if condition():
                return True
            time.sleep(0.001)
        return False

    def end(self) -> int:
        """Wait for the launcher, then make sure that nothing of it is left, as a batch system does."""
        below = descendants(self.process.pid)
        code = self.process.wait(END_SECONDS)
        for pid in below:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if str(self.output).encode() in words:
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        return code


def strike(run: Run, rng: np.random.Generator) -> str:
    """Kill -9 something at a random moment; what was hit, or "" when the run ended before."""
    base = RunFolder(run.output).last_checkpoint()
    first = 0 if base is None else int(base.name.partition("-")[2])
    victim, ahead, aim = int(rng.integers(0, run.ranks + 1)), int(rng.integers(1, 7)), str(rng.choice(AIMS))
    delay = float(rng.uniform(0, 0.1))
    if aim == "starting":
        moment = float(rng.uniform(0.2, 6.0))
        alive = run.until(lambda: time.monotonic() - run.begun > moment and victim in run.pids())
    else:
        alive = run.until(lambda: run.step() > first and run.step() >= first + ahead)
        if aim == "saving":
            alive = alive and run.until(run.saving)
        else:
            time.sleep(delay)
    pids = run.pids()
    outcome = run.output / "outcome.json"
    over = outcome.exists() and json.loads(outcome.read_text())["exit_code"] == 0
    if not alive or over or victim not in pids or run.process.poll() is not None:
        return ""
    left = [pid for pid in descendants(run.process.pid) if pid != pids[victim]]
    os.kill(pids[victim], signal.SIGKILL)
    if victim == run.ranks:  # nobody is left to end the ranks
        run.process.wait()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
    return f"{'launcher' if victim == run.ranks else f'rank {victim}'} while {aim}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("backend", "ranks"), [("horovod", 2), ("torch", 4)])
def test_twenty_kills_change_no_bit(data: Data, tmp_path: Path, backend: str, ranks: int) -> None:
    rng = np.random.default_rng(ranks)
    killed, starts = [], 0
    while len(killed) < KILLS:
        run = Run(command(backend, ranks, data, tmp_path / "killed"), ranks, tmp_path / "killed")
        starts += 1
        hit = strike(run, rng)
        code = run.end()
        if hit:
            assert code != 0, f"the launcher says that all went well although {hit} was killed"
            killed.append(hit)
        else:
            assert code != 0, f"the run came to its end after {len(killed)} kills: give it more steps"
        assert starts < 3 * KILLS
    for name in ("killed", "whole"):
        run = Run(command(backend, ranks, data, tmp_path / name), ranks, tmp_path / name)
        assert run.end() == 0, (tmp_path / f"{name}.log").read_text()[-4000:]
    one, two = (json.loads((tmp_path / name / "outcome.json").read_text()) for name in ("killed", "whole"))
    assert one["weights_sha256"] == two["weights_sha256"]
    states = [
        torch.load(tmp_path / name / "checkpoints" / f"step-{STEPS:06d}" / "state.pt", weights_only=True)
        for name in ("killed", "whole")
    ]
    for key, value in states[0]["task"]["queue"].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1]["task"]["queue"][key])), key
    # Every step stands in the log once, with the same figures.
    rows = [RunFolder(tmp_path / name).metrics() for name in ("killed", "whole")]
    assert [row["step"] for row in rows[0]] == list(range(1, STEPS + 1))
    for mine, theirs in zip(*rows, strict=True):
        assert mine["loss"] == theirs["loss"] and mine["grad_norm"] == theirs["grad_norm"]
    print(f"{len(killed)} kills in {starts} starts: {', '.join(killed)}")
