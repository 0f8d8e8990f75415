"""Rank 1 sleeps instead of starting the engine; the limit on starts is set low."""

from __future__ import annotations

import importlib
import os
import time

if os.environ["RANK"] == "1":
    time.sleep(600)

start = importlib.import_module("reelkin.core.engine.start")
start.START_SECONDS = 3.0

with start.start(deadline_seconds=1.0):
    pass
