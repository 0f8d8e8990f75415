"""Run under a launcher: a few good collectives, then one rank misbehaves.

    faults.py OUTPUT DEADLINE FAULT VICTIM

Each rank writes its pid to ``OUTPUT/pid-RANK``; the victim writes the time of its fault to ``OUTPUT/fault``; what the
engine tells of other ranks' failures goes to ``OUTPUT/told``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from reelkin.core.engine import Engine, start


def misbehave(engine: Engine, fault: str) -> None:
    if fault.startswith("stop"):
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "raise":
        raise ValueError("this rank has had enough")
    elif fault == "exit":
        sys.exit(3)
    elif fault == "wander":  # alive, but never comes
        time.sleep(600)
    elif fault == "slow":  # comes late, within the extended deadline of rank 0
        time.sleep(1.5 * engine._watchdog.deadline_seconds)  # type: ignore[union-attr]


def main(output: str, deadline: str, fault: str, victim: str) -> None:
    torch.set_num_threads(1)
    with start(deadline_seconds=float(deadline)) as engine:
        Path(output, f"pid-{engine.rank}").write_text(str(os.getpid()))
        engine.when_others_fail(lambda reason, usage: Path(output, "told").write_text(f"{usage} {reason}"))
        for _ in range(3):
            engine.all_reduce(torch.ones(4), "good")
        if fault == "slow":
            with engine.extend_deadline(60):
                if engine.is_main:
                    misbehave(engine, fault)
        elif fault == "stop-other-raises" and engine.rank != int(victim):
            time.sleep(1)
            misbehave(engine, "raise")
        elif engine.rank == int(victim):
            Path(output, "fault").write_text(str(time.time()))
            misbehave(engine, fault)
        engine.all_reduce(torch.ones(4), "gradients of step 4")
    print(f"rank {engine.rank} came through")


if __name__ == "__main__":
    main(*sys.argv[1:])
