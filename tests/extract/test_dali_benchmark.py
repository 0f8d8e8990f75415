"""The benchmark of DALI on a GPU runs without one, on small clips, from a checkout that is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reelkin.tests.helpers.dali_there import need_dali

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "dali_gpu.py"
# As in an environment that has the packages and not this one.
NOT_INSTALLED = (
    "import runpy, sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.slow
def test_the_benchmark_measures_each_kind_of_clip() -> None:
    need_dali()
    line = [sys.executable, "-c", NOT_INSTALLED, str(SCRIPT), "--device", "cpu", "--turns", "1", "--count", "2"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    names = ("vp9_small, one a second", "vp9_small, all pictures", "mjpeg_small, one a second", "mjpeg_small, all")
    for name, text in zip(names, lines, strict=False):
        assert text.startswith(name) and "pictures/s" in text and "share of the lower limit" in text
    assert lines[-1].endswith("of 4 reach 0.8 of the lower limit; 0 not decoded")
