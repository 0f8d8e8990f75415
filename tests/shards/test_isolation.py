"""Probing in children: a file that kills or hangs the decoder costs that file alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from reelkin.core.errors import DataError, Reason, ReelkinError
from reelkin.shards.video import isolation
from reelkin.shards.video.isolation import ProbePool
from reelkin.shards.video.probe import probe
from reelkin.tests.helpers import videos

FRAGILE_WORKER = """
import json, os, signal, sys, time
print("ready", flush=True)
for line in sys.stdin:
    path = json.loads(line)["path"]
    if "crash" in path: os.kill(os.getpid(), signal.SIGSEGV)
    if "leave" in path: os._exit(7)
    if "hang" in path: time.sleep(600)
    facts = {"pid": os.getpid(), "path": path}
    print(json.dumps({"fault": "our own mistake"} if "fault" in path else {"facts": facts}), flush=True)
"""


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that crash, leave or hang when the file's name says so."""
    monkeypatch.setattr(isolation._Child, "command", (sys.executable, "-c", FRAGILE_WORKER))


def test_children_find_the_same_facts_as_a_probe_in_this_process(made: Path, tmp_path: Path) -> None:
    paths = [*sorted(made.iterdir()), videos.make_text(tmp_path / "text.mp4")]
    with ProbePool(2) as pool:
        found = list(pool.map((str(path), path.stat().st_size) for path in paths))
    assert found[:-1] == [probe(path).facts() for path in paths[:-1]]
    assert isinstance(found[-1], DataError) and found[-1].reason is Reason.NOT_A_VIDEO


@pytest.mark.usefixtures("fragile")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_crash_costs_one_file_and_the_order_is_kept(workers: int) -> None:
    names = ["a", "crash", "b", "leave", "c", "crash again", "d"]
    with ProbePool(workers) as pool:
        found = list(pool.map((name, 0) for name in names))
    for name, result in zip(names, found, strict=True):
        if isinstance(result, DataError):
            assert result.reason is Reason.DECODER_DIED and name in ("crash", "leave", "crash again")
            assert ("SIGSEGV" if "crash" in name else "exit code 7") in str(result)
        else:
            assert result["path"] == name


@pytest.mark.usefixtures("fragile")
def test_a_hang_costs_one_file_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with ProbePool(1, timeout_seconds=0.5) as pool:
        found = list(pool.map((name, 0) for name in ("a", "hang", "b")))
    assert [getattr(result, "reason", None) for result in found] == [None, Reason.TIMEOUT, None]
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("fragile")
def test_leaving_early_stops_the_children() -> None:
    started = time.monotonic()
    with ProbePool(2) as pool:
        results = pool.map((name, 0) for name in ["a", *["hang"] * 20])
        first = next(results)
        assert isinstance(first, dict)
    assert time.monotonic() - started < 10
    assert not Path(f"/proc/{first['pid']}").exists()


@pytest.mark.usefixtures("fragile")
def test_a_fault_of_ours_is_not_blamed_on_the_file() -> None:
    with ProbePool(1) as pool, pytest.raises(ReelkinError, match="our own mistake"):
        list(pool.map([("fault", 0)]))


def test_children_that_cannot_start_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation._Child, "command", (sys.executable, "-c", "raise SystemExit('no such thing')"))
    with ProbePool(1) as pool, pytest.raises(ReelkinError, match=r"cannot be started \(no such thing"):
        list(pool.map([("a", 0)]))


HUNGRY = """
import resource, sys
from pathlib import Path
from reelkin.core.errors import DataError
from reelkin.shards.video.probe import probe
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20),) * 2)
try:
    probe(Path(sys.argv[1]))
except DataError as error:
    print("rejected:", error.reason, error)
"""


def test_a_file_that_asks_for_too_much_memory_is_rejected(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "large.mp4", seconds=0.1, size=(4000, 4000), pattern="plain")
    done = subprocess.run([sys.executable, "-c", HUNGRY, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("rejected: "), done


def test_names_with_undecodable_bytes_reach_the_child(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9 \n'x'.mp4"
    path.write_bytes((made / "one.mp4").read_bytes())
    with ProbePool(1) as pool:
        (result,) = pool.map([(str(path), 0)])
    assert isinstance(result, dict) and result["num_frames"] == 1
