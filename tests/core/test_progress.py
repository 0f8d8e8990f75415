"""Progress in a log: plain lines that say how much is done, how fast, and what was rejected."""

from collections import Counter
from contextlib import suppress

import pytest

from reelkin.core import progress as module
from reelkin.core.progress import Progress, in_words


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_now_and_then_and_once_at_the_end(capsys, clock):
    with Progress(10, "videos", "building shards") as progress:
        for number in range(10):
            clock[0] += 4.0
            progress.advance(rejects=int(number == 3))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "building shards: 1/10 videos, 0.25 videos/s, about 36 s left"
    assert lines[-1] == "building shards: 10/10 videos, 0.25 videos/s, 40.0 s in all, 1 rejected"
    assert 3 <= len(lines) <= 6


def test_a_log_that_takes_no_more_does_not_end_the_work(monkeypatch, clock):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        with Progress(2, "videos", "x") as progress:
            for _ in range(2):
                clock[0] += 40.0
                progress.advance()
        assert progress.done == 2
        monkeypatch.undo()
        with suppress(OSError):
            full.close()


def test_other_ranks_count_in_silence(capsys, clock):
    with Progress(2, "videos", "x", enabled=False) as progress:
        clock[0] += 60
        progress.advance(2, rejects=1)
    assert capsys.readouterr().err == ""
    assert (progress.done, progress.rejects) == (2, 1)


def test_an_unknown_total_and_a_note_are_shown(capsys, clock):
    with Progress(None, "steps", "training") as progress:
        clock[0] += 10
        progress.advance(5, note="loss 0.5")
    assert "training: 5 steps, 0.5 steps/s, loss 0.5" in capsys.readouterr().err


def test_bytes_reasons_and_what_others_did_are_shown_and_time_goes_by_bytes(capsys, clock):
    others = [(3, 600_000_000, Counter({"timeout": 1}))]
    progress = Progress(
        10, "videos", "building", total_bytes=1_000_000_000, more=lambda: others.pop() if others else (0, 0, Counter())
    )
    with progress:
        progress.skip(2, 100_000_000)  # done by an earlier run
        clock[0] += 10
        progress.advance(bytes=100_000_000, reason="damaged")
        clock[0] += 10
        progress.advance(bytes=100_000_000)
    first, *_, last = capsys.readouterr().err.splitlines()
    # 3 of others, 2 from before, 1 of its own; (600 + 100) MB in 10 s, and 200 MB are left.
    assert first == (
        "building: 6/10 videos, 800/1000 MB, 0.4 videos/s, 70 MB/s, about 3 s left, 2 rejected (damaged 1, timeout 1)"
    )
    assert last.startswith("building: 7/10 videos, 900/1000 MB,") and "20.0 s in all" in last
    assert progress.reasons == {"timeout": 1, "damaged": 1}


def test_long_times_are_said_in_minutes_and_hours():
    assert [in_words(seconds) for seconds in (9, 119, 720, 12600)] == ["9 s", "119 s", "12 min", "3.5 h"]
