"""Stopping, failing and going on under the real launchers, on 2 and 4 ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reelkin.launch.run_ranks import rank_environment
from reelkin.train.running.run_folder import RunFolder

from .conftest import RUN, Data, Launch, command_for

CLOCK = {"seconds", "samples_per_second", "waiting_for_data"}


def flags(data: Data, output: Path, **changed: object) -> list[str]:
    given: dict[str, object] = {
        "features": data.store, "copies": data.copies, "output": output, "steps": 10, "batch-size": 13,
        "queue-size": 40, "negatives-per-anchor": 1, "feedforward": 32, "dropout": 0.2, "log-every": 1,
        "checkpoint-every": 3, "warmup-steps": 2, "threads": 1,
    } | {name.replace("_", "-"): value for name, value in changed.items()}  # fmt: skip
    return [str(word) for name, value in given.items() for word in (f"--{name}", value)]


def outcome(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "outcome.json").read_text()))


def last_state(folder: Path) -> dict[str, Any]:
    found = RunFolder(folder).last_checkpoint()
    assert found is not None
    return dict(torch.load(found / "state.pt", weights_only=True))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{key: each for key, each in row.items() if key not in CLOCK} for row in RunFolder(folder).metrics()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("backend", "ranks"), [("horovod", 2), ("torch", 4)])
def test_resuming_changes_no_bit_in_mid_epoch_and_over_the_queues_end(
    data: Data, tmp_path: Path, launch: Launch, backend: str, ranks: int
) -> None:
    # 26 keys a step in a queue of 40: it wraps in every second step. 80 items: an epoch ends within step 7.
    finished = launch(backend, RUN, *flags(data, tmp_path / "whole"), ranks=ranks, timeout=300)
    assert finished.returncode == 0, finished.output[-4000:]
    launch(backend, RUN, *flags(data, tmp_path / "parts", stop_after=5), ranks=ranks, timeout=300)
    stopped = outcome(tmp_path / "parts")
    assert (stopped["exit_code"], stopped["steps"], stopped["ranks"]) == (75, 5, ranks)
    random_states = last_state(tmp_path / "parts")["random"]
    assert len(random_states) == ranks
    assert not torch.equal(random_states[0]["torch"], random_states[1]["torch"]), "each rank has numbers of its own"
    finished = launch(backend, RUN, *flags(data, tmp_path / "parts"), ranks=ranks, timeout=300)
    assert finished.returncode == 0, finished.output[-4000:]
    assert outcome(tmp_path / "parts")["weights_sha256"] == outcome(tmp_path / "whole")["weights_sha256"]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    one, two = (last_state(tmp_path / name)["task"]["queue"] for name in ("whole", "parts"))
    assert int(one["count"]) == 40
    for key, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(two[key])), key


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_another_number_of_ranks_the_losses_are_those_of_one(data: Data, tmp_path: Path, launch: Launch) -> None:
    assert launch("single", RUN, *flags(data, tmp_path / "one"), timeout=300).returncode == 0
    launch("torch", RUN, *flags(data, tmp_path / "run", stop_after=4), ranks=2, timeout=300)
    launch("torch", RUN, *flags(data, tmp_path / "run", stop_after=7), ranks=4, timeout=300)
    assert outcome(tmp_path / "run")["steps"] == 7
    assert launch("single", RUN, *flags(data, tmp_path / "run"), timeout=300).returncode == 0
    mine, theirs = rows(tmp_path / "run"), rows(tmp_path / "one")
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == list(range(1, 11))
    for one, other in zip(mine, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6), one["step"]
    queues = [last_state(tmp_path / name)["task"]["queue"]["videos"] for name in ("run", "one")]
    assert torch.equal(*queues), "the global batches are the same"


def start(words: list[str], ranks: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=rank_environment(ranks), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def until_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    until = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < until:
        found = RunFolder(folder).metrics()
        if found and found[-1]["step"] >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached: {process.communicate()[0][-3000:] if process.poll() else 'too slow'}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reelkin_run_hands_sigterm_on_and_ends_with_75_and_the_next_start_goes_on(
    data: Data, tmp_path: Path, launch: Launch
) -> None:
    words = [sys.executable, "-P", "-m", "reelkin.launch.cli", "run", "-np", "2", "--launcher", "horovod", "train"]
    process = start([*words, *flags(data, tmp_path / "run", steps=60, checkpoint_every=1000)], 2)
    until_step(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 75, output[-3000:]
    stopped = outcome(tmp_path / "run")
    assert stopped["exit_code"] == 75 and 3 <= stopped["steps"] < 60
    again = start([*words, *flags(data, tmp_path / "run", steps=60, checkpoint_every=1000)], 2)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and f"going on from step {stopped['steps']}" in output, output[-3000:]
    whole = flags(data, tmp_path / "whole", steps=60, checkpoint_every=1000)
    assert launch("horovod", RUN, *whole, timeout=300).returncode == 0
    assert outcome(tmp_path / "run")["weights_sha256"] == outcome(tmp_path / "whole")["weights_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_plain_horovodrun_ended_by_sigterm_goes_on_from_a_whole_checkpoint(
    data: Data, tmp_path: Path, launch: Launch
) -> None:
    words = [*command_for("horovod", 2), str(RUN)]
    process = start([*words, *flags(data, tmp_path / "run", steps=60)], 2)
    until_step(process, tmp_path / "run", 7)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    # The launcher may be gone before its workers: what they still write must not meet the next start.
    folder = RunFolder(tmp_path / "run")
    folder.lock(seconds=60)
    folder.unlock()
    found = folder.last_checkpoint()
    assert found is not None and RunFolder.read_meta(found)["step"] >= 6
    for name in ("run", "whole"):
        finished = launch("horovod", RUN, *flags(data, tmp_path / name, steps=60), timeout=300)
        assert finished.returncode == 0, finished.output[-3000:]
    assert outcome(tmp_path / "run")["weights_sha256"] == outcome(tmp_path / "whole")["weights_sha256"]
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_ends_all_ranks_with_the_reason_and_the_same_command_goes_on(
    data: Data, tmp_path: Path, small: Path, launch: Launch
) -> None:
    launch("torch", RUN, *flags(data, small / "run", stop_after=3), timeout=300)
    room = os.statvfs(small)
    (small / "fill").write_bytes(b"x" * (room.f_bavail * room.f_bsize - 60_000))
    failed = launch("torch", RUN, *flags(data, small / "run"), timeout=300)
    assert failed.returncode != 0
    # Both ranks say it, or the launcher ended one of them while it did.
    assert failed.output.count("step-000006: No space left on device. Make room") >= 1, failed.output[-3000:]
    assert 'Traceback (most recent call last):\n  File "' + str(RUN) not in failed.output
    found = RunFolder(small / "run").last_checkpoint()
    assert found is not None and found.name == "step-000003"
    (small / "fill").unlink()
    for folder in (small / "run", tmp_path / "whole"):
        finished = launch("torch", RUN, *flags(data, folder), timeout=300)
        assert finished.returncode == 0, finished.output[-3000:]
    assert outcome(small / "run")["weights_sha256"] == outcome(tmp_path / "whole")["weights_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_not_finite_ends_all_ranks_before_the_update_with_step_rank_and_ids(
    data: Data, tmp_path: Path, launch: Launch
) -> None:
    failed = launch("torch", RUN, *flags(data, tmp_path, lr="1e30", clip_norm=0, warmup_steps=0), timeout=300)
    assert failed.returncode != 0
    said = outcome(tmp_path)
    assert said["exit_code"] == 1 and "is not finite, so the weights were left as after step" in said["reason"]
    assert "(rank 0)" in said["reason"] and "(rank 1)" in said["reason"], said["reason"]
