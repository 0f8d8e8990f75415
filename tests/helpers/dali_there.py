"""DALI is there, or was left out on purpose; where it is only missing, its tests fail."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys

import pytest

from reelkin.launch import bootstrap


def need_dali() -> None:
    """Skip the test where DALI was left out; fail it where DALI is missing."""
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        return
    if not bootstrap.wants_dali(os.environ.get("REELKIN_DALI") or bootstrap.kept_options().get("REELKIN_DALI", "")):
        pytest.skip(f"no DALI: REELKIN_DALI=0, or none is made for {sys.platform} {platform.machine()}")
    pytest.fail("DALI is not installed: run make setup, or set REELKIN_DALI=0 to do without")
