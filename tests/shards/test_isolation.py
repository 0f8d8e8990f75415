"""Probing in children: a file that kills or hangs the decoder costs that file alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
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
    request = json.loads(line)
    path, number = request["path"], request["number"]
    if "crash" in path: os.kill(os.getpid(), signal.SIGSEGV)
    if "leave" in path: os._exit(7)
    if "hang" in path: time.sleep(600)
    if "garbage" in path: print("Segmentation fault?", flush=True); continue
    if "form" in path: print('["facts"]', flush=True); continue
    if "reason" in path: print('{"number": 0, "reason": "unheard-of", "detail": ""}', flush=True); continue
    if "flood" in path: os.write(1, b"x" * (20 << 20)); time.sleep(600)
    reply = {"fault": "our own mistake"} if "fault" in path else {"facts": {"pid": os.getpid(), "path": path}}
    print(json.dumps({"number": number, **reply}), flush=True)
    if "again" in path: time.sleep(0.1); print(json.dumps({"number": number, **reply}), flush=True)
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
def test_a_fault_of_ours_costs_one_file_and_is_said_as_such(caplog: pytest.LogCaptureFixture) -> None:
    with ProbePool(1) as pool:
        fault, good = pool.map([("fault", 0), ("good", 0)])
    assert isinstance(fault, DataError) and "reason of our own (our own mistake)" in str(fault)
    assert not isinstance(good, DataError) and "please report this" in caplog.text


def test_children_that_cannot_start_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation._Child, "command", (sys.executable, "-c", "raise SystemExit('no such thing')"))
    with ProbePool(1) as pool, pytest.raises(ReelkinError, match=r"cannot be started \(no such thing"):
        list(pool.map([("a", 0)]))


@pytest.mark.usefixtures("fragile")
def test_an_answer_that_is_none_is_the_death_of_the_decoder() -> None:
    names = ["a", "garbage", "b", "form", "c", "reason", "d", "flood", "e"]
    with ProbePool(1, timeout_seconds=20) as pool:
        found = list(pool.map((name, 0) for name in names))
    died = {"garbage": "else than JSON", "form": "another form", "reason": "another form", "flood": "more than 16 MB"}
    for name, result in zip(names, found, strict=True):
        if name in died:
            assert isinstance(result, DataError) and result.reason is Reason.DECODER_DIED
            assert died[name] in str(result)
        else:
            assert isinstance(result, dict) and result["path"] == name


@pytest.mark.usefixtures("fragile")
def test_words_that_nobody_asked_for_are_not_taken_for_the_answer_to_the_next_file() -> None:
    names = ["a", "once and again", *"bcd", "again", *"efgh"]
    with ProbePool(1) as pool:
        found = list(pool.map((name, 0) for name in names))
    assert [result["path"] for result in found] == names  # type: ignore[index]


@pytest.mark.usefixtures("fragile")
def test_children_are_replaced_after_a_number_of_files() -> None:
    with ProbePool(1, files_per_child=3) as pool:
        pids = [result["pid"] for result in pool.map((f"{n}", 0) for n in range(8))]  # type: ignore[index]
    assert len(set(pids[:3])) == len(set(pids[3:6])) == len(set(pids[6:])) == 1
    assert len(set(pids)) == 3


# The real worker with its real limits, and a prober that does to it what the file's name says.
REAL_WORKER = """
import ctypes, time
from pathlib import Path
from reelkin.shards.video import probe_worker as worker
libc = ctypes.PyDLL(None)  # a call of it holds the interpreter's lock, as a decoder that never returns may
hoard, real = [], worker.prepare
def prepare(request, check, limits):
    path = Path(request.path)
    if "burn" in path.name:
        while True: pass
    if "allocate" in path.name: hoard.append(bytes(3 << 30))
    if "hoard" in path.name: hoard.append(bytearray(600 << 20))
    if "sleep" in path.name: libc.sleep(600)
    if "crash" in path.name: ctypes.string_at(8)
    if "write" in path.name: path.with_name("written").write_bytes(b"x")
    if "open" in path.name: hoard.extend(open("/dev/null") for _ in range(200))
    return real(request, check, limits)
worker.prepare = prepare
worker.main()
"""


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children with all limits of the real ones."""
    monkeypatch.setattr(isolation._Child, "command", (sys.executable, "-c", REAL_WORKER))


def probe_named(folder: Path, names: Sequence[str], pool: ProbePool) -> list[str]:
    """What becomes of one good video under several names: "ok" or the reason and the sentence."""
    for name in names:
        if not (folder / name).exists():
            videos.make_video(folder / name, seconds=0.2, container="mp4")
    results = pool.map((str(folder / name), 0) for name in names)
    return [f"{r.reason}: {r}" if isinstance(r, DataError) else "ok" for r in results]


@pytest.mark.usefixtures("real")
def test_burning_allocating_sleeping_and_crashing_each_cost_one_file(tmp_path: Path) -> None:
    names = ["a", "burn", "b", "allocate", "c", "crash", "d"]
    with ProbePool(1, cpu_seconds=1, memory_bytes=2 << 30) as pool:
        found = dict(zip(names, probe_named(tmp_path, names, pool), strict=True))
    assert [found[name] for name in "abcd"] == ["ok"] * 4
    assert found["burn"].startswith("timeout") and "1 seconds of CPU time" in found["burn"]
    assert found["allocate"].startswith("decoder-died") and "memory" in found["allocate"]
    assert found["crash"].startswith("decoder-died") and "SIGSEGV" in found["crash"]
    started = time.monotonic()
    with ProbePool(1, timeout_seconds=2) as pool:
        assert probe_named(tmp_path, ["a", "sleep", "b"], pool) == ["ok", "timeout: no answer within 2 seconds", "ok"]
    assert time.monotonic() - started < 30


@pytest.mark.usefixtures("real")
def test_cpu_time_of_earlier_files_is_not_held_against_a_file(tmp_path: Path) -> None:
    slow = REAL_WORKER.replace(
        "while True: pass", "end = time.process_time() + 0.7\n        while time.process_time() < end: pass"
    )
    isolation._Child.command = (sys.executable, "-c", slow)  # type: ignore[misc] - undone by the fixture
    with ProbePool(1, cpu_seconds=1) as pool:
        assert probe_named(tmp_path, ["burn 1", "burn 2", "burn 3", "burn 4"], pool) == ["ok"] * 4


@pytest.mark.usefixtures("real")
def test_what_an_earlier_file_left_behind_is_not_held_against_the_next(tmp_path: Path) -> None:
    with ProbePool(1, memory_bytes=1 << 30) as pool:
        assert probe_named(tmp_path, ["hoard 1", "hoard 2", "hoard 3"], pool) == ["ok"] * 3


@pytest.mark.usefixtures("real")
def test_a_child_may_write_only_what_it_was_allowed_and_opens_few_files(tmp_path: Path) -> None:
    with ProbePool(1) as pool:
        assert probe_named(tmp_path, ["write"], pool) == ["too-large: a clip of it would be larger than 0 bytes"]
    assert (tmp_path / "written").stat().st_size == 0
    with ProbePool(1, write_bytes=1 << 20) as pool:
        assert probe_named(tmp_path, ["write"], pool) == ["ok"]
    with ProbePool(1) as pool:
        assert probe_named(tmp_path, ["open"], pool) == ["unreadable: Too many open files"]


def children_of(pid: int) -> list[int]:
    """Processes that a process has started, by /proc."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


PARENT = """
import sys
from reelkin.shards.video import isolation
isolation._Child.command = (sys.executable, "-c", sys.argv[1])
with isolation.ProbePool(2) as pool:
    for _ in pool.map((path, 0) for path in sys.argv[2:]):
        print("one", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_no_child_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    names = ["a", "sleep", "burn", "b"]
    paths = [str(videos.make_video(tmp_path / name, seconds=0.2, container="mp4")) for name in names]
    command = [sys.executable, "-c", PARENT, REAL_WORKER, *paths]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    time.sleep(1)  # by now one child is in a decoder that never returns, the other burns
    children = children_of(parent.pid)
    assert len(children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


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
