"""Extractions for a test to kill: which, when, whom, and what may stand in the output folder afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reelkin.core.errors import ReelkinError
from reelkin.core.files import is_partial
from reelkin.extract.running.records import read_record
from reelkin.extract.storage.blocks import check_block
from reelkin.extract.store import FeatureStore

from .runs import command_line, contents, descendants, wait_until_gone

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DIM = 12


@dataclass(frozen=True)
class Work:
    """What is extracted, by which command, and what comes of it undisturbed.

    Attributes:
        line: the command, but for its output.
        expected: everything in the store's folder.
    """

    line: list[str]
    expected: dict[str, bytes | None]

    def command(self, out: Path, *launcher: str) -> list[str]:
        """The command, run by a launcher if given."""
        return [*launcher, *self.line, "--output", str(out)]


def make_work(folder: Path, shards: Path, encoder: Path, decoder: str) -> Work:
    """Extract once without a disturbance."""
    line = [sys.executable, str(ROOT / "extract/run.py"), "--shards", str(shards), "--decoder", decoder]
    line += ["--encoder", "torchscript", "--weights", str(encoder), "--size", "48", "--crop", "40", "--sampling", "all"]
    line += ["--decode-workers", "2", "--batch-frames", "4"]
    finish([*line, "--output", str(folder)])
    return Work(line, contents(folder))


def environment() -> dict[str, str]:
    """Without what another launcher may have set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HOROVOD", "RANK", "WORLD"))}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}


def finish(command: list[str]) -> str:
    """Run to a good end; what it said."""
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


Stage = Callable[[Path], bool]


def claimed(out: Path) -> bool:
    """Before the first block."""
    return any(path.name.startswith(".claims-") for path in _in(out))


def blocks(count: int) -> Stage:
    """So many blocks are there."""
    return lambda out: sum(path.suffix == ".safetensors" for path in _in(out)) >= count


def writing(what: str) -> Stage:
    """A file is written, under its temporary name."""
    return lambda out: any(path.name.startswith(f".{what}") and is_partial(path) for path in _in(out))


def listed(out: Path) -> bool:
    """The manifest stands there, store.json not yet."""
    return (out / "manifest.parquet").exists()


def _in(out: Path) -> list[Path]:
    try:
        return list(out.iterdir())
    except OSError:
        return []


STAGES: tuple[Stage, ...] = (claimed, writing("features"), blocks(3), writing("manifest"), listed, writing("store"))
Victims = Callable[[int, random.Random], list[int]]
"""Of the processes below a command's, those to kill."""


def everything(pid: int, chance: random.Random) -> list[int]:
    """The command and all that it started, as when the machine stops."""
    return [pid, *descendants(pid)]


def one(words: str) -> Victims:
    """One of the processes that were started with these words."""
    return lambda pid, chance: [child for child in sorted(descendants(pid)) if words in command_line(child)][-1:]


def a_rank(pid: int, chance: random.Random) -> list[int]:
    """One of the ranks, any."""
    ranks = [child for child in sorted(descendants(pid)) if _is_rank(child)]
    return [chance.choice(ranks)] if ranks else []


def _is_rank(pid: int) -> bool:
    words = command_line(pid).split()
    return len(words) > 1 and "python" in words[0] and words[1].endswith("extract/run.py")


def kill(
    command: list[str], out: Path, stage: Stage, chance: random.Random, victims: Victims, deaths: int = 1
) -> int | None:
    """Start a command and ``kill -9`` the victims when a stage is reached, or some moments later.

    Args:
        deaths: how often; all that the command had started must be gone after its end.

    Returns:
        The exit code; None when the command itself was killed.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    seen: set[int] = set()
    try:
        limit = time.monotonic() + 120
        for _ in range(deaths):
            while process.poll() is None and not stage(out):
                assert time.monotonic() < limit
                time.sleep(0.001)
            time.sleep(chance.choice((0.0, 0.0, chance.uniform(0, 0.3))))
            seen |= descendants(process.pid)
            doomed = victims(process.pid, chance) if process.poll() is None else []
            for pid in doomed:
                _kill(pid)
        if process.pid not in doomed:
            process.wait(60)
    finally:
        seen |= descendants(process.pid)
        if process.poll() is None:
            process.kill()
    code = process.wait(60)
    wait_until_gone(seen)
    return None if code == -signal.SIGKILL else code


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def check_what_stands_there(out: Path) -> bool:
    """Whatever bears a final name is whole, and what has a record is as it says; True when it is a store."""
    for path in out.glob("features-*.safetensors"):
        record = read_record(out, path.name)
        if record is not None:
            assert list(check_block(path, record.block, DIM)) == []
    try:
        FeatureStore.open(out).verify()
    except ReelkinError as error:
        assert "no finished feature store" in str(error)
        return False
    return True


def kill_and_finish(work: Work, out: Path, seed: int, deaths: int, victims: Victims, *launcher: str) -> list[int]:
    """Runs that are killed, the first of each seed in another stage, and one that is not.

    Returns:
        How many blocks were whole at each death.
    """
    chance, command, found = random.Random(seed), work.command(out, *launcher), []
    for number in range(deaths):
        code = kill(command, out, STAGES[(seed + 2 * number) % len(STAGES)], chance, victims)
        whole = check_what_stands_there(out)
        assert whole or code != 0
        if code != 0:
            found.append(sum(read_record(out, path.name) is not None for path in out.glob("features-*.safetensors")))
    finish(command)
    assert contents(out) == work.expected
    return found
