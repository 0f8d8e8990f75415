"""What happens to a rank after its last line does not change how the run ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import WORKERS, Run


def test_a_crash_while_tidying_up_does_not_fail_a_finished_run(run_ranks: Run) -> None:
    finished = run_ranks("torch", 2, "teardown.py", "crash")
    assert finished.returncode == 0, finished.output
    assert "rank 0 is done" in finished.output and "rank 1 is done" in finished.output


@pytest.mark.slow
def test_an_error_is_still_told_and_still_an_error(run_ranks: Run) -> None:
    finished = run_ranks("torch", 2, "teardown.py", "crash", "fail")
    assert finished.returncode == 1 and "error: on purpose" in finished.output
    assert "SIGABRT" not in finished.output and "exitcode  : 1 " in finished.output


def test_one_process_ends_as_python_ends_it() -> None:
    alone = subprocess.run([sys.executable, WORKERS / "teardown.py", "crash"], capture_output=True, timeout=60)
    assert alone.returncode == -6


def test_what_was_said_last_is_not_lost() -> None:
    script = """
import sys
from reelkin.core.ending import note_exit_code, skip_teardown
skip_teardown()
print("the last line", end="")
sys.exit(note_exit_code(3))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert (ended.returncode, ended.stdout) == (3, "the last line")
