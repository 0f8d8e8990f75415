"""Two ranks under the real launchers: whoever is faster does more, nothing is done twice, and what rank 0 says at the
end is what stands in the store.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from reelkin.extract.running.records import read_record
from reelkin.extract.store import FeatureStore
from reelkin.shards.video.encode import VideoWriter
from reelkin.tests.extract.conftest import make_shards, write_quarters
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.runs import alive, command_line, contents, descendants, wait_until_gone

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "horovodrun": [str(BIN / "horovodrun"), "-np", "2", "--gloo"],
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "--no-python"],
}
GOOD, RED, PICTURES = 14, 2, 30
PIECES = GOOD + RED + 1  # and a damaged one


@dataclass(frozen=True)
class Alone:
    """What one process makes of the shards.

    Attributes:
        line: the command, but for its output.
        encoded: pictures that it encoded, those of rejected videos included.
    """

    line: list[str]
    shards: Path
    store: FeatureStore
    encoded: int

    def command(self, launcher: str, out: Path) -> list[str]:
        return [*LAUNCHERS[launcher], *self.line, "--output", str(out)]


@pytest.fixture(scope="module")
def alone(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """A piece for every video. Red ones are rejected by the encoder, one breaks in the decoder, one is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(GOOD):
        write_quarters(folder / f"{number:02d}.mp4", number, seconds=PICTURES // 10)
    for number in range(RED):
        with VideoWriter(folder / f"red{number}.mp4", 96, 64, 10, preset="ultrafast") as writer:
            for _ in range(PICTURES):
                writer.write(np.full((64, 96, 3), (255, 0, 0), np.uint8))
    noise = videos.make_video(folder.with_name("noise.mp4"), seconds=PICTURES / 10, pattern="noise")
    videos.make_damaged(folder / "torn.mp4", noise)
    videos.make_text(folder / "text.mp4")
    shards = make_shards(folder, tmp_path_factory.mktemp("shards") / "one", shard_videos=1).folder
    line = [sys.executable, str(ROOT / "extract/run.py"), "--shards", str(shards), "--decode-workers", "1"]
    line += [
        "--encoder",
        "torchscript",
        "--weights",
        str(tiny_file),
        "--size",
        "48",
        "--crop",
        "40",
        "--sampling",
        "all",
    ]
    out = tmp_path_factory.mktemp("expected") / "store"
    done = subprocess.run([*line, "--output", out], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    store = FeatureStore.open(out)
    reasons = Counter(row.reason for row in store.rejects)
    assert reasons == {"encoder-failed": RED, "damaged": 1, "not-a-video": 1} and len(store) == GOOD
    return Alone(line, shards, store, encoded_in(done.stdout))


def encoded_in(said: str) -> int:
    found = re.search(r"^encoded now: (\d+) frames", said, re.MULTILINE)
    assert found, said
    return int(found[1])


class Running:
    """A command under a launcher, with what it says in a file."""

    def __init__(self, command: list[str], log: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HOROVOD", "RANK", "WORLD"))}
        kept["PATH"] = f"{BIN}{os.pathsep}{kept.get('PATH', '')}"
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=kept, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        for pid in descendants(self.process.pid):
            words = command_line(pid).split()
            if len(words) > 1 and "python" in words[0] and words[1].endswith("extract/run.py"):
                own = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if {b"HOROVOD_RANK=%d" % number, b"RANK=%d" % number} & set(own):
                    return pid
        raise AssertionError(f"no rank {number}: {self.said()}")

    def said(self) -> str:
        """All that was said so far, without what horovodrun puts before each line."""
        return re.sub(r"^\[\d\]<std(out|err)>:", "", self.log.read_text(), flags=re.MULTILINE)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(150)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[Running]]:
    runs: list[Running] = []
    yield runs
    for run in runs:
        pids = descendants(run.process.pid)
        for pid in [run.process.pid, *pids] if run.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        run.process.wait(30)
        wait_until_gone(pids)


def wait_for(condition: object, run: Running, seconds: float = 90) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit and run.process.poll() is None, run.said()
        time.sleep(0.001)


def claims(out: Path) -> set[str]:
    """Pieces that were taken."""
    return {path.name for path in out.glob(".claims-*/*.safetensors")} if out.exists() else set()


def records(out: Path) -> set[str]:
    """Blocks that are whole."""
    return {path.name for path in out.glob("features-*.safetensors") if read_record(out, path.name) is not None}


def check_last_lines(said: str, alone: Alone, store: FeatureStore, fresh: int) -> None:
    """Counts of the progress and of the summary, against the store."""
    frames = sum(store.num_frames(name) for name in store.video_ids)
    (last,) = [line for line in said.splitlines() if line.startswith("extracting") and "s in all" in line]
    found = re.fullmatch(
        r"extracting \(2 ranks\): (\d+)/(\d+) videos, .* s in all, (\d+) rejected \((.*)\)  (\d+) frames, "
        r".* frames/s, (\d+)% waiting for decoding",
        last,
    )
    assert found, last
    reasons = dict(part.rsplit(" ", 1) for part in found[4].split(", "))
    assert (found[1], found[2], found[3]) == (str(PIECES), str(PIECES), str(RED + 1))
    assert reasons == {"encoder-failed": str(RED), "damaged": "1"}
    assert int(found[5]) == frames and 0 <= int(found[6]) <= 100
    for line in said.splitlines():
        if line.startswith("extracting") and line != last:
            assert re.match(rf"extracting \(2 ranks\): \d+/{PIECES} videos, .*MB/s, about [\d.]+ (s|min|h) left", line)
    assert f"{len(store)} videos, {frames} frames of 12 dimensions; {len(store.rejects)} rejected" in said
    for reason, count in Counter(row.reason for row in store.rejects).items():
        assert f"  rejected, {reason}: {count}\n" in said
    assert encoded_in(said) == fresh
    share = re.search(r"(\d+)% of the time waiting for decoding", said)
    assert share and 0 <= int(share[1]) <= 100
    assert f"{len(store.info['blocks'])} blocks" in said


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_faster_rank_takes_what_the_slower_one_leaves(
    launcher: str, alone: Alone, tmp_path: Path, running: list[Running]
) -> None:
    if launcher == "horovodrun":
        pytest.importorskip("horovod")
    out = tmp_path / "out"
    run = Running(alone.command(launcher, out), tmp_path / "log")
    running.append(run)
    wait_for(lambda: claims(out), run)
    slow = run.rank(1)
    os.kill(slow, signal.SIGSTOP)
    taken = len(claims(out))
    # The stopped rank keeps what it had taken by then; the other one does all the rest, far more than half.
    wait_for(lambda: len(records(out)) >= PIECES - 3, run)
    assert len(claims(out)) == PIECES and taken < PIECES
    assert alive(slow) and run.process.poll() is None and not (out / "store.json").exists()
    time.sleep(1.0)
    os.kill(slow, signal.SIGCONT)
    assert run.end() == 0, run.said()
    assert contents(out) == contents(alone.store.path)
    check_last_lines(run.said(), alone, FeatureStore.open(out), alone.encoded)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_is_gone_ends_the_job_and_the_next_run_does_exactly_the_rest(
    launcher: str, alone: Alone, tmp_path: Path, running: list[Running]
) -> None:
    if launcher == "horovodrun":
        pytest.importorskip("horovod")
    out = tmp_path / "out"
    run = Running(alone.command(launcher, out), tmp_path / "log")
    running.append(run)
    wait_for(lambda: len(records(out)) >= 3, run)
    pids = descendants(run.process.pid)
    os.kill(run.rank(1), signal.SIGKILL)
    assert run.end() != 0
    wait_until_gone(pids)
    whole = records(out)
    assert 3 <= len(whole) < PIECES and not (out / "store.json").exists()

    again = Running(alone.command(launcher, out), tmp_path / "again")
    running.append(again)
    assert again.end() == 0, again.said()
    assert contents(out) == contents(alone.store.path)
    assert f"{len(whole)} of {PIECES} blocks are already extracted" in again.said()
    torn = alone.encoded - PICTURES * (GOOD + RED)
    of_block = {row.block: row.num_frames for row in map(alone.store.row, alone.store.video_ids)}
    rejected = {name: row.video_id for name in records(out) if name not in of_block for row in rows_of(out, name)}
    done = sum(of_block.get(name) or (torn if rejected[name] == "torn" else PICTURES) for name in whole)
    assert encoded_in(again.said()) == alone.encoded - done


def rows_of(out: Path, block: str) -> list[object]:
    record = read_record(out, block)
    assert record is not None
    return list(record.rows)
