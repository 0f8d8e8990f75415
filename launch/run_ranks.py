"""``reelkin run -np N STAGE ...``: a stage on N ranks, stopped gently and with its real exit code.

horovodrun swallows exit codes and turns SIGTERM into SIGKILL after five seconds, so this wrapper signals the workers
itself and reads the outcome from where the stage left it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from ..core.config import command
from ..core.errors import ExitCode, UsageError

EXIT_CODES = "REELKIN_EXIT_CODES"
"""Variable that names the folder in which each local rank leaves its exit code, in a file named after its rank."""

HOROVOD_STATE = Path(sys.prefix) / "reelkin-horovod.json"
# What an outer launcher or a batch system may have set; a new job must not inherit its ranks.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_RANK_PREFIXES = ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL", "HOROVOD_CROSS", "OMPI_", "PMIX_")
_RANK_MARKS = (b"HOROVOD_RANK=", b"LOCAL_RANK=", b"OMPI_COMM_WORLD_RANK=")


def choose_launcher(wanted: str = "auto") -> tuple[str, str]:
    """Which launcher to use.

    Args:
        wanted: "horovod", "mpi" (Horovod over MPI, which Adasum needs), "torch", or "auto" (Horovod where it is
            installed, else torch).

    Returns:
        ("horovod" | "mpi" | "torch", a sentence that says why; empty where there is nothing to say).

    Raises:
        UsageError: ``wanted`` is something else, or Horovod is wanted and not installed.
    """
    if wanted not in ("auto", "horovod", "mpi", "torch"):
        raise UsageError(f"--launcher {wanted}: choose auto, horovod, mpi or torch")
    if wanted == "torch":
        return "torch", ""
    trouble = horovod_trouble()
    if not trouble and wanted == "mpi" and not read_state().get("mpi", True):
        trouble = "Horovod was built without MPI: apt-get install libopenmpi-dev openmpi-bin, then make setup"
    if not trouble:
        return ("mpi" if wanted == "mpi" else "horovod"), ""
    if wanted != "auto":
        raise UsageError(
            f"--launcher {wanted}: {trouble}; `reelkin doctor` says what to do, --launcher torch works now"
        )
    return "torch", f"Horovod is not used ({trouble}); ranks start under torchrun"


def read_state() -> dict:
    """What set-up recorded about Horovod: ok, mpi, nccl, or reason and fix; empty where set-up never ran."""
    try:
        return dict(json.loads(HOROVOD_STATE.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def horovod_trouble() -> str:
    """Why Horovod cannot be used in this environment, as set-up recorded it; empty when it can."""
    state = read_state()
    if importlib.util.find_spec("horovod") is None:
        return str(state.get("reason") or "it is not installed").splitlines()[0]
    return "" if state.get("ok", True) else str(state.get("reason", "set-up failed")).splitlines()[0]


def launcher_prefix(count: int, launcher: str = "auto", hosts: str = "") -> list[str]:
    """The words that stand before ``[sys.executable, script, ...]`` to run it on ``count`` ranks.

    Args:
        count: number of ranks.
        launcher: "horovod", "mpi", "torch" or "auto".
        hosts: "host1:4,host2:4" for horovodrun; empty for this machine.
    """
    if launcher == "auto":
        launcher, _ = choose_launcher()
    if launcher in ("horovod", "mpi"):
        carrier = "--mpi" if launcher == "mpi" else "--gloo"
        horovodrun = Path(sys.executable).with_name("horovodrun")
        # Started through this interpreter: another python3 on PATH, or a moved environment, changes nothing.
        return [sys.executable, "-P", str(horovodrun), carrier, "-np", str(count), *(["-H", hosts] if hosts else [])]
    if hosts:
        raise UsageError(f"--hosts {hosts}: torchrun is started on each machine by itself, see torchrun --help")
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--no-python"]
    return [*torchrun, "--nproc-per-node", str(count)]


def rank_environment(count: int) -> dict[str, str]:
    """The environment for a launcher: this interpreter's programs first on PATH, no ranks of an outer job."""
    inherited = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
    for name in [name for name in inherited if name.startswith(_RANK_PREFIXES)]:
        del inherited[name]
    inherited["PATH"] = str(Path(sys.executable).parent) + os.pathsep + inherited.get("PATH", os.defpath)
    cores = len(os.sched_getaffinity(0))
    inherited.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    if count > cores:  # ranks that wait for one another over MPI would keep their cores from those that work
        inherited["OMPI_MCA_mpi_yield_when_idle"] = "1"
    return inherited


# --- workers ----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has gone meanwhile
        return b""


def descendants(pid: int) -> list[int]:
    """Processes below ``pid``, parents before children."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := _read(folder / "stat")):
            # The second field, the program's name, may hold spaces and parentheses.
            children.setdefault(int(stat.rpartition(b")")[2].split()[1]), []).append(int(folder.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


def workers(pid: int) -> list[int]:
    """The ranks' own processes below a launcher: those with a rank in their environment, without what they started."""
    ranked: set[int] = set()
    top = []
    for candidate in descendants(pid):
        environment = _read(Path("/proc", str(candidate), "environ")).split(b"\0")
        if any(entry.startswith(_RANK_MARKS) for entry in environment):
            ranked.add(candidate)
            stat = _read(Path("/proc", str(candidate), "stat"))
            if stat and int(stat.rpartition(b")")[2].split()[1]) not in ranked:
                top.append(candidate)
    return top


def _send(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def run_gently(words: Sequence[str], environment: dict[str, str], grace_seconds: float = 120.0) -> tuple[int, bool]:
    """Run a command and wait. SIGTERM and SIGINT go on to its ranks (to itself without ranks); a second one ends all.

    Args:
        words: the whole command line.
        environment: of the command.
        grace_seconds: how long it may take to stop when asked to.

    Returns:
        (its exit code, whether it was asked to stop).
    """
    asked = 0
    # A session of its own: Ctrl-C in a terminal reaches this process only, which passes it on.
    process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if number == signal.SIGALRM or asked > 1:
            _send([*descendants(process.pid), process.pid], signal.SIGKILL)
            return
        signal.alarm(max(1, int(grace_seconds)))
        _send(workers(process.pid) or [process.pid], number)

    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    previous = {number: signal.signal(number, stop) for number in handled}
    try:
        code = process.wait()
    finally:
        signal.alarm(0)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code, asked > 0


def run_ranks(words: Sequence[str], count: int, *, output: Path | None = None, grace_seconds: float = 120.0) -> int:
    """Run a launcher's command line as `run_gently` does.

    Args:
        words: the whole command line, launcher first.
        count: number of ranks, for the threads of each.
        output: the stage's output folder, whose outcome.json holds its exit code.
        grace_seconds: how long the workers may take to stop when asked to.

    Returns:
        The stage's exit code.
    """
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="reelkin-run-") as folder:
        code, stopped = run_gently(words, rank_environment(count) | {EXIT_CODES: folder}, grace_seconds)
        return outcome(code, folder=Path(folder), output=output, started=started, stopped=stopped)


def outcome(code: int, *, folder: Path, output: Path | None, started: float, stopped: bool) -> int:
    """The exit code of a finished job.

    Args:
        code: the launcher's own, which says no more than whether all went well.
        folder: holds the exit codes of local ranks, a file a rank.
        output: the stage's output folder; its outcome.json counts when it was written after ``started``.
        started: seconds since the epoch.
        stopped: whether the job was asked to stop.
    """
    if output is not None and (output / "outcome.json").is_file():
        file = output / "outcome.json"
        if file.stat().st_mtime >= started - 1:
            try:
                return int(json.loads(file.read_text(encoding="utf-8"))["exit_code"])
            except (OSError, ValueError, KeyError, TypeError):
                pass
    left = {int(file.name): int(file.read_text(encoding="utf-8")) for file in folder.iterdir() if file.name.isdigit()}
    seen = left.get(0) or max(left.values(), default=0)
    if seen:
        return seen
    if code == 0:
        return int(ExitCode.OK)
    return int(ExitCode.STOPPED if stopped else ExitCode.FAILED)


def leave_exit_code(code: int, rank: int) -> None:
    """Called by a stage's process at its end; does nothing when it was not started by `run_ranks`."""
    folder = os.environ.get(EXIT_CODES)
    if folder and os.path.isdir(folder):
        Path(folder, str(rank)).write_text(str(code), encoding="utf-8")


OUTPUT_FLAGS = ("--output", "--model_path", "--model-path", "-mp")
"""Flags that name a stage's output folder; the last three are TCA's published command line's."""


def output_of(arguments: Sequence[str]) -> Path | None:
    """The folder after ``--output``, or after what the published command calls it, in a stage's arguments."""
    for index, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag not in OUTPUT_FLAGS:
            continue
        if equals:
            return Path(value)
        if index + 1 < len(arguments):
            return Path(arguments[index + 1])
    return None


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``reelkin run``; returns the stage's exit code."""
    parser = argparse.ArgumentParser(
        prog="reelkin run",
        description="Run a stage on several ranks, under horovodrun or torchrun.",
        epilog="Example: reelkin run -np 2 train --features store --output run",
    )
    parser.add_argument("-np", "--ranks", type=int, required=True, help="number of ranks")
    parser.add_argument("--launcher", default="auto", help="horovod, mpi (Horovod over MPI), torch or auto")
    parser.add_argument("--hosts", default="", help="machines and ranks on each for horovodrun: host1:4,host2:4")
    parser.add_argument("--grace-seconds", type=float, default=120.0, help="time to stop in when asked to (SIGTERM)")
    parser.add_argument("stage", help="a verb of reelkin: build, extract, train, ...")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the stage's own flags")
    options = parser.parse_args(argv)
    if options.ranks < 1:
        raise UsageError(f"-np {options.ranks}: give 1 or more")
    name, why = choose_launcher(options.launcher)
    if why:
        print(why, file=sys.stderr, flush=True)
    stage = [sys.executable, "-P", "-m", "reelkin.launch.cli", options.stage, *options.arguments]
    words = launcher_prefix(options.ranks, name, options.hosts) + stage
    return run_ranks(words, options.ranks, output=output_of(options.arguments), grace_seconds=options.grace_seconds)
