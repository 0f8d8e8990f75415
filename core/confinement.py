"""What a child process does to itself before it reads strangers' files: it dies with its parent, and has limits."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, even in the middle of a decoder.

    Args:
        parent: process id of the parent, which may be gone already; then this process ends at once.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only; elsewhere timers and the end of the pipe must do
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def bound(kind: int, value: int | None) -> None:
    """Lower a limit (``resource.RLIMIT_...``) to ``value``, if it is not lower already; None leaves it."""
    if value is not None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def allow_cpu(seconds: float) -> None:
    """Let the process use so much more processor time, in whole seconds; past it SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft, hard = math.ceil(used.ru_utime + used.ru_stime + seconds), resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
