"""Builds, retries and removals that are killed at any moment go on to the same bytes, and lose nothing meanwhile."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reelkin.core.errors import ReelkinError
from reelkin.core.files import is_partial, read_json
from reelkin.shards import build as build_command
from reelkin.shards import remove as remove_command
from reelkin.shards.archive import read_members
from reelkin.shards.packing.records import record_path
from reelkin.shards.reader import ShardSet
from reelkin.tests.helpers import videos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SEQUENCES, KILLS = 10, 3


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty inputs: whole videos, some to be cut, frame folders by way of a list, and bad ones."""
    folder = tmp_path_factory.mktemp("many")
    videos.make_video(folder / "long.mp4", seconds=9, fps=10, options={"g": "10", "sc_threshold": "0"})
    for number in range(40):
        name = ("one.mp4", "vp9.webm", "h264.mkv", "picture.gif")[number % 4]
        shutil.copy(made / name, folder / f"{number:02d}{Path(name).suffix}")
    for number in range(40, 50):
        shutil.copy(folder / "long.mp4", folder / f"{number}.mp4")
    for number in range(50, 59):
        videos.make_truncated(folder / f"{number}.mp4", made / "noise.mp4", keep=0.3 + 0.05 * (number - 50))
    return folder


def line(folder: Path, out: Path, *more: str) -> list[str]:
    build = [sys.executable, build_command.__file__, "--videos", str(folder), "--output", str(out)]
    return [*build, "--shard-videos", "3", "--clip-seconds", "3", "--workers", "2", *more]


def finish(command: list[str]) -> float:
    """Run to the end; the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - started


def kill_after(command: list[str], seconds: float) -> None:
    """Start, and kill -9 after so long; the children that it had end too."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        children = [int(pid) for path in Path(f"/proc/{process.pid}/task").glob("*/children") for pid in _read(path)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        limit = time.monotonic() + 30
        while any(_alive(pid) for pid in children):
            assert time.monotonic() < limit, "a child outlives the build that was killed"
            time.sleep(0.02)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check_what_stands_there(out: Path) -> None:
    """Whatever bears a final name is whole, at any moment."""
    for path in out.glob("clips-*.tar") if out.exists() else ():
        assert read_members(path)
        record = record_path(out, int(path.stem.removeprefix("clips-")))
        if record.exists():
            known = read_json(record)
            after = known["becoming"] or known
            assert path.stat().st_size in {known["shard"]["bytes"], (after["shard"] or known["shard"])["bytes"]}
    try:
        ShardSet.open(out).verify()
    except ReelkinError as error:
        assert "no finished shards" in str(error)


def test_thirty_kills_of_a_build_change_no_byte(folder: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    whole = finish(line(folder, reference))
    expected = contents(reference)
    assert len(ShardSet.open(reference).videos) == 60 and len(ShardSet.open(reference).rejects) == 9
    for seed in range(SEQUENCES):
        random_ = random.Random(seed)
        out = tmp_path / f"out{seed}"
        for _ in range(KILLS):
            kill_after(line(folder, out), random_.uniform(0.15, 1.0) * whole)
            check_what_stands_there(out)
        finish(line(folder, out))
        assert contents(out) == expected
        assert not [path for path in out.rglob("*") if is_partial(path)]
        shutil.rmtree(out)


def test_kills_of_a_retry_and_of_a_removal_change_no_byte(folder: Path, made: Path, tmp_path: Path) -> None:
    inputs, base, reference = tmp_path / "in", tmp_path / "base", tmp_path / "reference"
    shutil.copytree(folder, inputs)
    finish(line(inputs, base))
    for number in range(50, 59):
        shutil.copy(made / "vp8.webm", inputs / f"{number}.mp4")
    removal = [sys.executable, remove_command.__file__]
    removed = ["--video-ids", "07", "41", "long", "52"]
    shutil.copytree(base, reference)
    retry_seconds = finish(line(inputs, reference, "--retry", "truncated"))
    retried = contents(reference)
    removal_seconds = finish([*removal, str(reference), *removed])
    for seed in range(4):
        random_ = random.Random(seed)
        out = tmp_path / f"out{seed}"
        shutil.copytree(base, out)
        for _ in range(KILLS):
            kill_after(line(inputs, out, "--retry", "truncated"), random_.uniform(0.15, 1.0) * retry_seconds)
            check_what_stands_there(out)
        finish(line(inputs, out, "--retry", "truncated"))
        assert contents(out) == retried
        for _ in range(KILLS):
            kill_after([*removal, str(out), *removed], random_.uniform(0.5, 1.0) * removal_seconds)
            check_what_stands_there(out)
        finish([*removal, str(out), *removed])
        assert contents(out) == contents(reference)
        shutil.rmtree(out)
