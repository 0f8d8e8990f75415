"""reelkin run: choosing a launcher, handing on exit codes, stopping gently."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reelkin.core.errors import UsageError
from reelkin.launch import run_ranks
from reelkin.launch.run_ranks import choose_launcher, launcher_prefix, outcome, output_of, rank_environment

# A stand-in for horovodrun: starts ranks through a shell, waits for them, and swallows their exit codes.
LAUNCHER = """
import os, subprocess, sys
count, words = int(sys.argv[1]), sys.argv[2:]
ranks = [subprocess.Popen(["sh", "-c", f'HOROVOD_RANK={r} "$@"; exit $?', "sh", *words]) for r in range(count)]
codes = [rank.wait() for rank in ranks]
sys.exit(1 if any(codes) else 0)
"""

# A rank that finishes its work when asked to stop, which takes it `seconds`, and then leaves its exit code.
WORKER = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
rank = os.environ.get("HOROVOD_RANK") or os.environ["RANK"]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(folder / f"started-{rank}").touch()
while not asked:
    time.sleep(0.05)
time.sleep(seconds)
helper_alive = helper.poll() is None
helper.kill()
(folder / f"stopped-{rank}").write_text(str(helper_alive))
Path(os.environ["REELKIN_EXIT_CODES"], rank).write_text("75")
time.sleep(1)
sys.exit(75)
"""


def files(tmp_path: Path) -> tuple[Path, Path]:
    launcher, worker = tmp_path / "launcher.py", tmp_path / "worker.py"
    launcher.write_text(LAUNCHER)
    worker.write_text(WORKER)
    return launcher, worker


def stop_when_started(folder: Path, number: int, times: int = 1) -> threading.Thread:
    def wait_and_signal() -> None:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=wait_and_signal)
    thread.start()
    return thread


def outcome_of(
    tmp_path: Path, code: int, left: dict[int, int], written: int | None = None, *, stopped: bool = False
) -> int:
    folder = tmp_path / "codes"
    folder.mkdir()
    for rank, value in left.items():
        (folder / str(rank)).write_text(str(value))
    started = time.time()
    if written is not None:
        (tmp_path / "outcome.json").write_text(json.dumps({"exit_code": written}))
    return outcome(code, folder=folder, output=tmp_path, started=started, stopped=stopped)


@pytest.mark.parametrize(
    ("code", "left", "written", "expected"),
    [
        (0, {0: 0, 1: 0}, None, 0),
        (1, {0: 3, 1: 3}, None, 3),  # the launcher turned 3 into 1
        (1, {0: 0, 1: 2}, None, 2),  # another rank failed
        (1, {}, None, 1),  # nothing was left: killed
        (0, {}, None, 0),
        (1, {0: 1}, 75, 75),  # the stage's own word counts most
        (137, {}, 0, 0),
    ],
)
def test_the_stage_decides_the_exit_code(
    tmp_path: Path, code: int, left: dict[int, int], written: int | None, expected: int
) -> None:
    assert outcome_of(tmp_path, code, left, written) == expected


def test_a_killed_job_that_was_asked_to_stop_is_stopped(tmp_path: Path) -> None:
    assert outcome_of(tmp_path, 143, {}, stopped=True) == 75


def test_an_outcome_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps({"exit_code": 0}))
    os.utime(tmp_path / "outcome.json", (time.time() - 100, time.time() - 100))
    assert outcome_of(tmp_path, 1, {}) == 1


def test_output_is_found_in_both_forms() -> None:
    assert output_of(["--seed", "1", "--output", "a b"]) == Path("a b")
    assert output_of(["--output=run"]) == Path("run")
    assert output_of(["--outputs", "run"]) is None
    assert output_of(["--output"]) is None
    # TCA's published command line has another name for it.
    assert output_of(["-ap", "vcdb.pickle", "--model_path", "a b"]) == output_of(["-mp", "a b"]) == Path("a b")
    assert output_of(["--model-path=run", "--momentum", "0.9"]) == Path("run")


def test_exit_code_comes_through_a_launcher_that_swallows_it(tmp_path: Path) -> None:
    launcher, _ = files(tmp_path)
    code = "import sys; from reelkin.launch.run_ranks import leave_exit_code as leave; leave(3, 0); sys.exit(3)"
    assert run_ranks.run_ranks([sys.executable, str(launcher), "2", sys.executable, "-c", code], 2) == 3


def test_sigterm_reaches_the_workers_and_only_them(tmp_path: Path) -> None:
    launcher, worker = files(tmp_path)
    thread = stop_when_started(tmp_path, signal.SIGTERM)
    words = [sys.executable, str(launcher), "2", sys.executable, str(worker), str(tmp_path), "0.2"]
    assert run_ranks.run_ranks(words, 2) == 75
    thread.join()
    # Both ranks ended their work, and what they had started themselves was left to them.
    assert [(tmp_path / f"stopped-{rank}").read_text() for rank in range(2)] == ["True", "True"]


@pytest.mark.parametrize("times", [1, 2], ids=["grace-time-over", "asked-twice"])
def test_workers_that_do_not_stop_are_ended(tmp_path: Path, times: int) -> None:
    launcher, worker = files(tmp_path)
    thread = stop_when_started(tmp_path, signal.SIGTERM, times)
    words = [sys.executable, str(launcher), "2", sys.executable, str(worker), str(tmp_path), "600"]
    started = time.monotonic()
    assert run_ranks.run_ranks(words, 2, grace_seconds=1 if times == 1 else 500) == 75
    thread.join()
    assert time.monotonic() - started < 30
    assert not list(tmp_path.glob("stopped-*"))
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(worker) not in left


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run_ranks.run_ranks([sys.executable, "-c", "pass"], 1) == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_ranks_of_an_outer_job_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "HOROVOD_RANK", "HOROVOD_LOCAL_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "5")
    environment = rank_environment(2)
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "HOROVOD_RANK", "HOROVOD_LOCAL_SIZE"} & set(
        environment
    )
    assert environment["HOROVOD_CYCLE_TIME"] == "5"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_without_horovod_torchrun_is_chosen_and_the_reason_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"ok": False, "reason": "building it needs g++", "fix": "apt-get install g++"}))
    monkeypatch.setattr(run_ranks, "HOROVOD_STATE", state)
    name, why = choose_launcher("auto")
    assert name == "torch" and "building it needs g++" in why
    for wanted in ("horovod", "mpi"):
        with pytest.raises(UsageError, match="building it needs g"):
            choose_launcher(wanted)
    assert "torch.distributed.run" in launcher_prefix(2)


def test_a_launcher_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="choose auto, horovod, mpi or torch"):
        choose_launcher("slurm")


def test_usage_errors_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_ranks.main(["-np", "0", "train"]) == 2
    assert "-np 0" in capsys.readouterr().err


LAUNCHERS = [pytest.param("horovod", marks=pytest.mark.slow), pytest.param("torch", marks=pytest.mark.slow)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_real_launcher_lets_workers_finish(tmp_path: Path, launcher: str) -> None:
    _, worker = files(tmp_path)
    thread = stop_when_started(tmp_path, signal.SIGTERM)
    # Eight seconds: longer than the five that horovodrun itself would give.
    words = [*launcher_prefix(2, launcher), sys.executable, str(worker), str(tmp_path), "8"]
    assert run_ranks.run_ranks(words, 2) == 75
    thread.join()
    assert [(tmp_path / f"stopped-{rank}").read_text() for rank in range(2)] == ["True", "True"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_usage_error_on_ranks_comes_back_as_2(launcher: str) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "reelkin.launch.cli",
        "run",
        "-np",
        "2",
        "--launcher",
        launcher,
        "no-such-verb",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stdout + done.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_add_up(launcher: str) -> None:
    command = [sys.executable, "-P", "-m", "reelkin.launch.rank_check", "--launcher", launcher]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and f"2 ranks under {launcher}" in done.stdout, done.stdout + done.stderr
