"""The whole pipeline as one command, over a folder that holds bad files beside good ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reelkin.extract.store import FeatureStore
from reelkin.shards.reader import ShardSet
from reelkin.tests.helpers.videos import (
    make_audio_only,
    make_empty,
    make_ffconcat,
    make_playlist,
    make_text,
    make_truncated,
    make_video,
)

ROOT = Path(__file__).resolve().parents[2]
BAD = {
    "cut": "truncated",
    "empty": "empty-file",
    "list": "forbidden-format",
    "playlist": "forbidden-format",
    "sound": "no-video-stream",
    "text": "not-a-video",
}


def fill(folder: Path) -> list[str]:
    """Six good videos, six bad ones; returns the ids of the good ones."""
    folder.mkdir()
    good = [f"good {number}, ü" if number == 2 else f"good{number}" for number in range(6)]
    for number, name in enumerate(good):
        make_video(folder / f"{name}.mp4", seconds=3, seed=number)
    make_truncated(folder / "cut.mp4")
    make_empty(folder / "empty.mp4")
    make_text(folder / "text.mp4")
    make_audio_only(folder / "sound.mp4")
    make_ffconcat(folder / "list.mp4", folder / "good0.mp4")
    make_playlist(folder / "playlist.mp4", folder / "good1.mp4")
    return good


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bad_files_end_as_rejected_rows_and_the_rest_goes_through_to_the_report(tmp_path: Path) -> None:
    good = fill(tmp_path / "videos")
    command = [sys.executable, str(ROOT / "launch" / "demo.py"), "--videos", str(tmp_path / "videos"), "--small"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")],
        check=False,
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = tmp_path / "out"
    rows = {row.video_id: row for row in ShardSet.open(out / "shards").videos}
    assert {name: rows[name].reason for name in BAD} == BAD
    assert all(rows[name].status == "ok" for name in good)
    store = FeatureStore.open(out / "features")
    assert {row.video_id: row.reason for row in store.rejects} == BAD
    assert set(good) <= set(store.video_ids) and len(store) == len(good) * (1 + 3)
    results = json.loads((out / "results" / "results.json").read_text())
    assert [task["name"] for task in results["tasks"]] == ["easy", "medium", "hard"]
    assert all(task["coverage"]["missing"] == [] for task in results["tasks"])
    assert (out / "results" / "report.html").stat().st_size > 10_000
    held_out = set((out / "held-out.csv").read_text(encoding="utf-8").split("\n"))
    trained = (out / "training-ids.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in held_out if line.partition(",")[0].strip('"') in trained]
    outcome = json.loads((out / "run" / "outcome.json").read_text())
    assert outcome["exit_code"] == 0 and outcome["weights_sha256"]
