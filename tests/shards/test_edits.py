"""Sets of edited copies: the tables, resuming, bad videos, and the command."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reelkin.core.errors import ExitCode, Reason, UsageError
from reelkin.shards.editing.config import EditsConfig
from reelkin.shards.editing.edit_set import EDITS_COLUMNS, make_edits
from reelkin.shards.editing.plan import plan_copies, plan_copy, safe_name
from reelkin.shards.editing.work import Task, make_all
from reelkin.shards.sources.listing import list_videos
from reelkin.shards.video.encode import VideoWriter

ODD = "holiday film/day 1, café"


def write_video(path: Path, seed: int, seconds: float = 1.2, fps: int = 10) -> Path:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    with VideoWriter(path, 64, 48, fps, keyframe_every=4) as writer:
        for number in range(round(seconds * fps)):
            writer.write(np.roll(blocks, number, axis=1).repeat(8, axis=0).repeat(8, axis=1))
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for seed, name in enumerate(("plain", ODD, "third")):
        write_video(folder / f"{name}.mp4", seed)
    return folder


def config(videos: Path, output: Path, **changes: Any) -> EditsConfig:
    settings: dict[str, Any] = {"per_strength": 1, "workers": 1, **changes}
    return EditsConfig((videos,), output, **settings)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_set_has_every_copy_and_the_table_says_what_it_is(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "copies"
    outcome = make_edits(config(videos, output))
    assert (outcome.num_videos, outcome.num_rejected, outcome.num_copies, outcome.exit_code) == (3, 0, 9, 0)
    rows = rows_of(output / "edits.csv")
    assert tuple(rows[0]) == EDITS_COLUMNS
    plans = {plan.copy_id: plan for plan in plan_copies(["plain", ODD, "third"], ("easy", "medium", "hard"), 1, 0)}
    assert {row["copy_id"] for row in rows} == set(plans)
    for row in rows:
        plan = plans[row["copy_id"]]
        assert (row["source_id"], row["strength"], row["edits"]) == (plan.source_id, plan.strength, plan.names)
        assert (row["other_source_id"], row["seed"]) == (plan.other_source_id, "0")
        with av.open(str(output / f"{row['copy_id']}.mp4")) as container:
            frames = list(container.decode(video=0))
        stored = (int(row["width"]) + int(row["width"]) % 2, int(row["height"]) + int(row["height"]) % 2)
        assert (frames[0].width, frames[0].height) == stored
        assert float(row["copy_end_seconds"]) <= len(frames) / float(row["fps"]) + 1e-3
        assert 0 <= float(row["source_start_seconds"]) < float(row["source_end_seconds"]) <= 1.2 + 1e-6
    assert [row["copy_id"] for row in rows_of(output / "other_segments.csv")] == [
        row["copy_id"] for row in rows_of(output / "other_segments.csv") if "join" in plans[row["copy_id"]].names
    ]
    # What the copies are called is what they are called in shards, with the originals beside them.
    assert {one.video_id for one in list_videos([output]).inputs} == set(plans)


def test_workers_do_not_change_a_byte(videos: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        make_edits(config(videos, tmp_path / f"copies{workers}", workers=workers, seed=3))
    assert contents(tmp_path / "copies1") == contents(tmp_path / "copies2")
    make_edits(config(videos, tmp_path / "copies3", workers=2, seed=4))
    first, other = contents(tmp_path / "copies1"), contents(tmp_path / "copies3")
    assert all(first[name] != other[name] for name in first if name.endswith(".mp4"))


def test_a_second_run_makes_only_what_is_missing(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "copies"
    make_edits(config(videos, output, strengths="easy,hard"))
    before = contents(output)
    copies = sorted(name for name in before if name.endswith(".mp4"))
    written = {name: (output / name).stat().st_mtime_ns for name in copies}
    (output / copies[0]).unlink()
    (output / copies[1]).write_bytes(b"cut")
    assert make_edits(config(videos, output, strengths="easy,hard")).num_made_now == 2
    after = contents(output)
    assert {name: after[name] for name in copies} == {name: before[name] for name in copies}
    assert [name for name in copies if (output / name).stat().st_mtime_ns != written[name]] == copies[:2]
    assert make_edits(config(videos, output, strengths="easy,hard")).num_made_now == 0
    assert make_edits(config(videos, output)).num_made_now == 3  # a strength more


def test_a_changed_source_is_copied_anew(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "copies"
    make_edits(config(videos, output, strengths="easy"))
    write_video(videos / "plain.mp4", 99)
    remade = make_edits(config(videos, output, strengths="easy")).num_made_now
    shows_it = [
        plan for plan in plan_copies(["plain", ODD, "third"], ["easy"], 1, 0) if plan.other_source_id == "plain"
    ]
    assert remade == 1 + len(shows_it)


def test_copies_of_other_settings_are_not_mixed_in(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "copies"
    make_edits(config(videos, output, strengths="easy", per_strength=2))
    with pytest.raises(UsageError, match=r"3 copies that these settings do not make .*--rebuild"):
        make_edits(config(videos, output, strengths="easy"))
    make_edits(config(videos, output, strengths="easy", rebuild=True))
    assert len(list(output.glob("*.mp4"))) == 3 == len(rows_of(output / "edits.csv"))


def spoil(path: Path) -> None:
    """Overwrite the last part of the pictures with noise; headers and the packets' sizes stay."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4 if data.index(b"moov") > start else len(data)
    from_here = start + (end - start) // 2
    data[from_here:end] = np.random.default_rng(0).bytes(end - from_here)
    path.write_bytes(data)


def test_bad_videos_are_listed_and_the_rest_is_as_without_them(videos: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    make_edits(config(videos, clean, per_strength=2, strengths="medium,hard"))
    (videos / "text.mp4").write_text("no video at all")
    (videos / "empty.mp4").touch()
    spoil(write_video(videos / "half.mp4", 7, seconds=3.0))
    output = tmp_path / "copies"
    outcome = make_edits(config(videos, output, per_strength=2, strengths="medium,hard", max_reject_share=0.4))
    reasons = {row["source_id"]: row["reason"] for row in rows_of(output / "rejects.csv")}
    assert reasons["text"] == Reason.NOT_A_VIDEO and reasons["empty"] == Reason.EMPTY_FILE
    assert reasons["half"] in (Reason.DAMAGED, Reason.TRUNCATED)
    assert outcome.num_rejected == 3 and outcome.exit_code == ExitCode.REJECTS
    assert json.loads((output / "outcome.json").read_text())["exit_code"] == 3
    ours, theirs = contents(output), contents(clean)
    assert {name: ours[name] for name in theirs if name.endswith((".mp4", "edits.csv"))} == {
        name: theirs[name] for name in theirs if name.endswith((".mp4", "edits.csv"))
    }
    assert not [name for name in ours if name.startswith("half")]
    assert make_edits(config(videos, output, per_strength=2, strengths="medium,hard")).num_made_now == 0
    assert contents(output).keys() == ours.keys()


class DeadlyTask(Task):
    """Kills the process that receives it, as a decoder's crash would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (9,))


def test_a_video_that_kills_its_process_costs_only_its_own_copies(videos: Path, tmp_path: Path) -> None:
    def task(kind: type[Task], number: int) -> Task:
        plan = plan_copy("plain" if kind is Task else "deadly", "easy", number, 0)
        name = plan.copy_id
        source = str(videos / "plain.mp4")
        return kind(plan, source, "", tmp_path / f"{name}.mp4", tmp_path / f"{name}.json", "key", None, 1.0, 10.0)

    tasks = [task(Task, 0), task(DeadlyTask, 1), task(Task, 2), task(Task, 3), task(Task, 4), task(Task, 5)]
    outcomes = {done.plan.copy_id: failure for done, failure in make_all(tasks, 1)}
    assert len(outcomes) == 6
    failure = outcomes.pop("deadly__easy_1")
    assert failure is not None and (failure.video_id, failure.reason) == ("deadly", Reason.DECODER_DIED)
    assert not any(outcomes.values()) and all((tmp_path / f"{name}.mp4").is_file() for name in outcomes)


def test_the_limits_apply(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "copies"
    write_video(videos / "another.mp4", 8, seconds=3.0, fps=20)
    make_edits(
        config(videos, output, limit=1, short_side=32, max_seconds=2.0, max_fps=5.0, strengths="easy", per_strength=4)
    )
    rows = rows_of(output / "edits.csv")
    assert {row["source_id"] for row in rows} == {"another"}
    assert max(float(row["source_end_seconds"]) for row in rows) <= 2.0
    assert max(float(row["fps"]) for row in rows) <= 5.0
    assert max(int(row["height"]) for row in rows) <= 36  # bars may stand above and below


def test_copies_in_the_output_folder_are_not_copied_again(videos: Path) -> None:
    output = videos / "copies"
    for _ in range(2):
        outcome = make_edits(config(videos, output, strengths="easy"))
        assert (outcome.num_videos, outcome.num_copies) == (3, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strengths": "easy,brutal"}, "easy,medium,hard"),
        ({"per_strength": 0}, "per_strength"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"short_side": 5}, "short_side"),
        ({"workers": -1}, "workers"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(tmp_path, tmp_path, **changes)


def test_every_setting_is_explained() -> None:
    text = Path(sys.modules[EditsConfig.__module__].__file__ or "").read_text()
    for one in fields(EditsConfig):
        assert f"    {one.name}: " in text and '"""' in text.split(f"    {one.name}: ")[1].split("\n")[1]


def test_the_script_runs_and_says_what_is_missing(videos: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(Path(__file__).parents[2] / "shards/edits.py")]
    missing = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert missing.returncode == 2 and "--videos" in missing.stderr and "shards/edits.py --videos" in missing.stderr
    command = [
        *script,
        "--videos",
        str(videos),
        "--output",
        str(tmp_path / "out"),
        "--per_strength",
        "1",
        "--workers",
        "1",
    ]
    dry = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, timeout=120)
    assert dry.returncode == 0 and "9 copies" in dry.stdout and not (tmp_path / "out").exists()
    done = subprocess.run([*command, "--strengths", "easy"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "3 copies of 3 videos" in done.stdout
    assert len(rows_of(tmp_path / "out/edits.csv")) == 3
    assert (tmp_path / "out" / f"{safe_name(ODD)}__easy_0.mp4").is_file()
    nothing = subprocess.run(
        [*script, "--videos", "/nowhere", "--output", "x"], capture_output=True, text=True, timeout=120
    )
    assert nothing.returncode == 2 and "/nowhere" in nothing.stderr
