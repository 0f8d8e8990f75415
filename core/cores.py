"""The cores of a rank."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .engine.environment import read_launch


def share_of_cores() -> int:
    """Cores of this rank: the machine's, or what a container may use of them, divided among its ranks."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return max(1, int(cores) // max(1, read_launch().local_size))


def use_share_of_cores() -> int:
    """Let torch use this rank's share of the machine's cores; launchers leave every rank with one or with all.

    Returns:
        The number of threads.
    """
    share = share_of_cores()
    torch.set_num_threads(share)
    return share
