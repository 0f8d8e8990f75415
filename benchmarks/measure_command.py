#!/usr/bin/env python3
"""Runs a command and reports its wall-clock time and the peak memory of its whole process tree.

    python benchmarks/measure_command.py -- make demo

Memory is the sum over all processes of their proportional set size (PSS: shared pages counted once), sampled twice a
second; short peaks between samples are missed. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import psutil

SAMPLE_SECONDS = 0.5


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size in bytes of a process and all its descendants; processes that just ended count nothing."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


def measure(argv: list[str]) -> dict[str, Any]:
    """Run ``argv``; return its exit code, seconds and peak bytes."""
    started = time.monotonic()
    running = subprocess.Popen(argv)
    root = psutil.Process(running.pid)
    peak = 0
    while running.poll() is None:
        try:
            peak = max(peak, tree_bytes(root))
        except psutil.NoSuchProcess:
            break
        time.sleep(SAMPLE_SECONDS)
    code = running.wait()
    return {
        "command": argv,
        "exit_code": code,
        "seconds": round(time.monotonic() - started, 1),
        "peak_gigabytes": round(peak / 1e9, 2),
    }


def main() -> int:
    if "--" not in sys.argv or sys.argv[-1] == "--":
        print(__doc__, file=sys.stderr)
        return 2
    result = measure(sys.argv[sys.argv.index("--") + 1 :])
    print(json.dumps(result))
    return int(result["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
