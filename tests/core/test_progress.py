"""Progress in a log: plain lines that say how much is done, how fast, and what was rejected."""

import pytest

from reelkin.core import progress as module
from reelkin.core.progress import Progress


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
