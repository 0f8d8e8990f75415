"""Do ranks really start and reach one another here? Two of them add up their numbers.

``python -m reelkin.launch.rank_check --launcher horovod`` starts them; without a launcher this is what each rank runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from ..core.errors import ExitCode
from .run_ranks import _send, descendants, launcher_prefix, rank_environment

RANKS = 2
DEADLINE_SECONDS = 45.0


def worker() -> int:
    """One rank: the sum of (rank + 1) over all ranks must be what arithmetic says."""
    import torch

    from ..core.engine import start

    torch.set_num_threads(1)
    # On the CPU: a machine with one GPU has two ranks' worth of everything else.
    with start(deadline_seconds=DEADLINE_SECONDS, device="cpu") as engine:
        total = float(engine.all_reduce(torch.tensor([engine.rank + 1.0]), "rank_check", op="sum")[0])
        expected = engine.size * (engine.size + 1) / 2
        if engine.size != RANKS or total != expected:
            print(f"{engine.size} ranks add up to {total}, {expected} expected", file=sys.stderr)
            return int(ExitCode.FAILED)
        if engine.is_main:
            print(f"{engine.size} ranks under {engine.backend}", flush=True)
    return int(ExitCode.OK)


def ranks_start(launcher: str, seconds: float = 60.0) -> tuple[bool, str]:
    """Start two ranks of this file.

    Args:
        launcher: "horovod", "mpi" or "torch".
        seconds: all of it is killed after that time.

    Returns:
        (whether the sum was right, the last lines of the ranks, or of the launcher where no rank spoke).
    """
    backend = "torch" if launcher == "torch" else "horovod"
    words = [*launcher_prefix(RANKS, launcher), sys.executable, "-P", "-m", "reelkin.launch.rank_check"]
    process = subprocess.Popen(
        words,
        env=rank_environment(RANKS),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _send([*descendants(process.pid), process.pid], 9)
        text, _ = process.communicate()
        return False, f"no answer within {seconds:.0f} s\n{_end_of(text)}".strip()
    return process.returncode == 0 and f"{RANKS} ranks under {backend}" in text, _end_of(text)


def _end_of(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    # horovodrun marks the ranks' lines; its own, a traceback of the launcher, say nothing.
    return "\n".join([line for line in lines if "]<std" in line][-8:] or lines[-8:])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry; returns 0 when the ranks started and agreed."""
    parser = argparse.ArgumentParser(prog="rank_check", description="start two ranks that add up their numbers")
    parser.add_argument("--launcher", choices=("horovod", "mpi", "torch"))
    options = parser.parse_args(argv)
    if options.launcher is None:
        return worker()
    good, text = ranks_start(options.launcher)
    print(text)
    return int(ExitCode.OK if good else ExitCode.FAILED)


if __name__ == "__main__":
    sys.exit(main())
