"""Starts worker scripts under the real launchers."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

WORKERS = Path(__file__).parent / "workers"
BIN = Path(sys.executable).parent
LAUNCHER_VARIABLES = ("HOROVOD", "OMPI_", "PMIX_", "TORCHELASTIC", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "REELKIN")


@dataclass
class Finished:
    """How a launched run ended."""

    returncode: int
    output: str
    seconds: float
    ended: float
    """Time of day at which the launcher returned."""


def require_horovod() -> None:
    """Skip without Horovod, unless the environment says that it must be there."""
    if importlib.util.find_spec("horovod") is None and os.environ.get("REELKIN_REQUIRE_HOROVOD") != "1":
        pytest.skip("horovod is not installed; REELKIN_REQUIRE_HOROVOD=1 makes this a failure")


def command_for(backend: str, ranks: int) -> list[str]:
    python = [sys.executable]
    if backend == "horovod":
        require_horovod()
        return ["horovodrun", "-np", str(ranks), "--gloo", *python]
    if backend == "mpi":
        return ["horovodrun", "-np", str(ranks), "--mpi", "--mpi-args=--oversubscribe", *python]
    if backend == "torch":
        return ["torchrun", "--standalone", "--nproc-per-node", str(ranks)]
    return python


@pytest.fixture
def bin_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launchers installed beside this interpreter come first on PATH."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")


Run = Callable[..., Finished]


@pytest.fixture(scope="session")
def run_ranks() -> Iterator[Run]:
    """A function (backend, ranks, worker, *arguments, timeout) that runs a worker script to its end."""

    def run(backend: str, ranks: int, worker: str, *arguments: str, timeout: float = 120) -> Finished:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
        environment |= {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
        }
        command = [*command_for(backend, ranks), str(WORKERS / worker), *arguments]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"{' '.join(command)} did not end within {timeout} s:\n{output[-6000:]}")
        return Finished(process.returncode, output, time.monotonic() - began, time.time())

    yield run
