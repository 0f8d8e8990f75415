"""Procedural scenes: repeatable by (seed, index), moving, and no two alike."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from reelkin.shards.painting.motion import Camera
from reelkin.shards.painting.render import WORLDS, ScenePlan, plan_scene, scene_frames
from reelkin.shards.painting.scene_set import ScenesConfig, write_scenes

SMALL = (80, 60, 4.0)  # width, height, fps


def frames_of(plan: ScenePlan) -> np.ndarray:
    return np.stack(list(scene_frames(plan, *SMALL)))


def thumbnail(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((16, 16), Image.Resampling.BOX), np.float32).ravel()


def test_the_same_seed_and_index_give_the_same_pictures() -> None:
    for index in (0, 3, 25):
        first, second = (frames_of(plan_scene(5, index, 2.0)) for _ in range(2))
        assert np.array_equal(first, second)
    assert not np.array_equal(frames_of(plan_scene(5, 0, 2.0)), frames_of(plan_scene(6, 0, 2.0)))


def test_two_hundred_scenes_no_two_alike() -> None:
    firsts = np.stack([thumbnail(next(scene_frames(plan_scene(0, index, 2.0), *SMALL))) for index in range(200)])
    distances = np.abs(firsts[:, None] - firsts[None]).mean(axis=-1)
    # The same thumbnail after a 5 % change of brightness is about 6 of 255 away; a shifted view of a scene about 25.
    assert distances[~np.eye(200, dtype=bool)].min() > 8
    assert len({plan_scene(0, index).scene_id for index in range(200)}) == 200


def test_a_run_of_scenes_shows_every_world_once_and_then_repeats_worlds() -> None:
    firsts = [plan_scene(3, index).shots[0].world for index in range(2 * len(WORLDS))]
    assert sorted(firsts[: len(WORLDS)]) == sorted(WORLDS) == sorted(firsts[len(WORLDS) :])
    assert firsts[: len(WORLDS)] != firsts[len(WORLDS) :]


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_every_world_is_textured_and_differs_from_call_to_call(world: str) -> None:
    from reelkin.shards.painting.paint import PALETTES

    first, second = (np.asarray(WORLDS[world](np.random.default_rng(seed), 152, 114, PALETTES[0])) for seed in (1, 2))
    assert np.asarray(WORLDS[world](np.random.default_rng(0), 61, 61, PALETTES[0])).shape == (61, 61, 3)
    assert first.shape == (114, 152, 3) and first.dtype == np.uint8
    grey = first.astype(np.float32).mean(axis=-1)
    edges = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    assert edges > 1.0 and grey.std() > 8  # a plain gradient over 0..255 has edges of about 2.2 but one world only
    assert np.abs(first.astype(int) - second).mean() > 4


def test_the_camera_never_stands_still() -> None:
    for index in range(24):
        plan = plan_scene(0, index, 4.0)
        frames = frames_of(plan).astype(np.int16)
        shots = {shot.number: shot for shot in plan.shots}
        for shot in shots.values():
            inside = [n for n in range(len(frames)) if shot.start_seconds <= n / SMALL[2] < shot.end_seconds]
            changes = [np.abs(frames[a] - frames[b]).mean() for a, b in itertools.pairwise(inside)]
            assert not changes or max(changes) > 1.0, (index, shot)


def test_the_camera_stays_inside_the_world() -> None:
    aspect, scale = 4 / 3, 1.9
    for seed in range(200):
        camera = Camera.drawn(np.random.default_rng(seed), aspect)
        for u in np.linspace(0, 1, 9):
            view = camera.at(float(u), 8 * float(u), aspect)
            corners = np.array([[sx * aspect / 2, sy / 2] for sx in (-1, 1) for sy in (-1, 1)]) / view.zoom
            cos, sin = np.cos(view.angle), np.sin(view.angle)
            x, y = view.x + corners @ [cos, -sin], view.y + corners @ [sin, cos]
            assert np.abs(x).max() <= scale * aspect / 2 + 1e-9 and np.abs(y).max() <= scale / 2 + 1e-9


def test_cuts_change_the_picture_more_than_motion_does() -> None:
    plans = (plan_scene(0, index, 6.0) for index in range(60))
    ratios = []
    for plan in plans:
        cuts = [shot.start_seconds for shot in plan.shots if shot.painting == shot.number > 0]
        frames = np.stack(list(scene_frames(plan, 80, 60, 12))).astype(np.int16) if cuts else np.empty(0)
        for cut in cuts:
            changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
            ratios.append(changes[int(np.ceil(cut * 12)) - 1] / np.median(changes))
    assert len(ratios) > 8 and np.median(ratios) > 2


def test_the_command_writes_videos_and_a_table_and_skips_what_is_there(tmp_path: Path) -> None:
    config = ScenesConfig(tmp_path / "out", count=3, seconds=1.0, size="64x48", fps=5)
    write_scenes(config)
    with open(tmp_path / "out/scenes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    before = {}
    for row in rows:
        path = tmp_path / "out" / row["file"]
        before[path] = (path.read_bytes(), path.stat().st_mtime_ns)
        with av.open(str(path)) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(pictures) == 5 and pictures[0].shape == (48, 64, 3)
        wanted = next(scene_frames(plan_scene(0, int(row["index"]), 1.0), 64, 48, 5))
        assert np.abs(pictures[0].astype(int) - wanted).mean() < 14
    damaged = tmp_path / "out" / rows[1]["file"]
    damaged.write_bytes(b"cut short")
    write_scenes(config)
    for path, (content, written) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == written) == (path != damaged)
    write_scenes(ScenesConfig(tmp_path / "out", count=3, seconds=1.0, size="64x48", fps=10))
    assert all(path.read_bytes() != content for path, (content, _) in before.items())


def test_the_script_says_what_is_missing_and_does_nothing_on_a_dry_run(tmp_path: Path) -> None:
    script = [sys.executable, str(Path(__file__).parents[2] / "shards/scenes.py")]
    missing = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert missing.returncode == 2 and "--output" in missing.stderr and "shards/scenes.py --output" in missing.stderr
    wrong = subprocess.run([*script, "--output", str(tmp_path / "x"), "--size", "320"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "320x240" in wrong.stderr
    dry = subprocess.run([*script, "--output", str(tmp_path / "x"), "--dry_run"], capture_output=True, text=True)
    assert dry.returncode == 0 and "24 scenes" in dry.stdout and not (tmp_path / "x").exists()
