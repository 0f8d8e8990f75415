"""Writing a set of procedural scenes: one video a scene, and a table of what each shows."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ...core.errors import ReelkinError, UsageError
from ...core.progress import Progress
from ...core.tables import publish_csv
from ..video.encode import VideoWriter
from .render import ScenePlan, plan_scene, scene_frames

COLUMNS = ("scene_id", "file", "seed", "index", "seconds", "width", "height", "fps", "worlds", "bytes")
ROUGH_SCENES_PER_SECOND = 2.0  # of 8 s at 320x240, 12 pictures a second, one core
ROUGH_BYTES_PER_PIXEL = 0.067


@dataclass(frozen=True)
class ScenesConfig:
    """Make procedural scenes: videos with moving cameras, objects, light and cuts, for trials and tests."""

    output: Path
    """Folder for the videos and scenes.csv; made when missing."""
    count: int = 24
    """How many scenes. Scene 7 is the same whether 8 or 800 are made."""
    seed: int = 0
    """Another seed gives other scenes."""
    seconds: float = 8.0
    """Length of each scene in seconds."""
    size: str = "320x240"
    """Width x height in pixels."""
    fps: float = 12.0
    """Pictures per second."""
    dry_run: bool = False
    """Only say what would be made."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--count is {self.count}; make at least 1 scene")
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"--seconds is {self.seconds}; it must be above 0 and at most 3600")
        if not 0 < self.fps <= 120:
            raise UsageError(f"--fps is {self.fps}; it must be above 0 and at most 120")
        width, height = self.pixels
        if not (32 <= width <= 4096 and 32 <= height <= 4096):
            raise UsageError(f"--size is {self.size}; each side must be 32 to 4096 pixels")

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height."""
        match = re.fullmatch(r"(\d+)x(\d+)", self.size)
        if match is None:
            raise UsageError(f"--size is {self.size!r}; write width x height, as in 320x240")
        return int(match[1]), int(match[2])


def describe(config: ScenesConfig) -> str:
    """What `write_scenes` would do, for a dry run."""
    width, height = config.pixels
    pictures = config.count * max(1, round(config.seconds * config.fps))
    megabytes = pictures * width * height * ROUGH_BYTES_PER_PIXEL / 1e6
    work = pictures * width * height / (8 * 12 * 320 * 240)
    return (
        f"would write {config.count} scenes of {config.seconds:g} s, {width}x{height}, {config.fps:g} fps into "
        f"{config.output}: {pictures} pictures, roughly {megabytes:.0f} MB, "
        f"{work / ROUGH_SCENES_PER_SECOND:.0f} s on one core"
    )


def write_scenes(config: ScenesConfig) -> list[dict[str, str]]:
    """Write the scenes that are not there yet, then scenes.csv.

    Returns:
        The rows of scenes.csv, one a scene, in order of the index; values as text.

    Raises:
        ReelkinError: a file cannot be written.
    """
    listed = {row["file"]: row for row in _read_table(config.output / "scenes.csv")}
    rows: list[dict[str, str]] = []
    with Progress(config.count, "scenes", "painting scenes") as progress:
        for index in range(config.count):
            plan = plan_scene(config.seed, index, config.seconds)
            row = _row(config, plan)
            path = config.output / row["file"]
            before = listed.get(row["file"], {})
            same = {key: value for key, value in before.items() if key != "bytes"} == row
            if not (same and path.is_file() and str(path.stat().st_size) == before.get("bytes")):
                write_scene(plan, path, *config.pixels, config.fps)
            rows.append({**row, "bytes": str(path.stat().st_size)})
            progress.advance()
    publish_csv(config.output / "scenes.csv", COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    return rows


def write_scene(plan: ScenePlan, path: Path, width: int, height: int, fps: float) -> None:
    """Render one scene into an H.264 file of good quality."""
    with VideoWriter(path, width, height, Fraction(fps).limit_denominator(1001), crf=18) as writer:
        for frame in scene_frames(plan, width, height, fps):
            writer.write(frame)


def _row(config: ScenesConfig, plan: ScenePlan) -> dict[str, str]:
    width, height = config.pixels
    return {
        "scene_id": plan.scene_id,
        "file": f"{plan.scene_id}.mp4",
        "seed": str(plan.seed),
        "index": str(plan.index),
        "seconds": f"{plan.seconds:g}",
        "width": str(width),
        "height": str(height),
        "fps": f"{config.fps:g}",
        "worlds": "+".join(shot.world for shot in plan.shots),
    }


def _read_table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row.get("file")]
    except (OSError, ValueError) as error:
        raise ReelkinError(f"cannot read {path}: {error}; remove it and run the same command again") from error
