"""Which videos the demo trains on and which it holds out, split by what they show."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import DataError, ReelkinError
from ..core.seeds import seed_of
from ..evaluate.ground_truth import read_ground_truth
from ..shards.sources.inputs import VideoInput
from ..shards.video.isolation import ProbePool

LEAST_GROUPS = 4


@dataclass(frozen=True)
class Split:
    """Two halves of the videos; videos of one group are in the same half.

    Attributes:
        groups: group name of every video.
        training: ids that PCA and model may see.
        held_out: ids that only the evaluation sees.
    """

    groups: Mapping[str, str]
    training: Sequence[str]
    held_out: Sequence[str]

    @property
    def has_related(self) -> bool:
        """Whether any group holds more than one video."""
        return len(set(self.groups.values())) < len(self.groups)


def groups_csv_in(folder: Path) -> Path | None:
    """The first CSV of the folder, by name, whose header has the columns file and group; None without one."""
    for path in sorted(folder.glob("*.csv")):
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if {"file", "group"} <= {name.strip() for name in next(csv.reader(file), [])}:
                return path
    return None


def group_videos(video_ids: Sequence[str], groups_csv: Path | None) -> dict[str, str]:
    """Group of every video; one that the CSV does not name, or names with an empty group, is a group of its own.

    Raises:
        ReelkinError: the CSV cannot be read, puts a video into two groups, or names none of the videos.
    """
    named = read_ground_truth(groups_csv, video_ids).groups if groups_csv else {}
    if groups_csv and not set(named) & set(video_ids):
        example = next(iter(named), "no video in a group")
        raise ReelkinError(f"{groups_csv} names none of the videos ({video_ids[0]!r}, ...); it holds {example!r}")
    # Marked, so that a video named "beach" does not join a group of that name.
    return {video_id: named.get(video_id) or f"only {video_id}" for video_id in video_ids}


def readable(inputs: Sequence[VideoInput]) -> list[VideoInput]:
    """The inputs that hold a video: each is probed in a child process, as a build of shards does it."""
    files = [entry for entry in inputs if entry.reason is None]
    with ProbePool(len(os.sched_getaffinity(0))) as pool:
        found = pool.map([(entry.path, entry.bytes) for entry in files])
        return [entry for entry, facts in zip(files, found, strict=True) if not isinstance(facts, DataError)]


def split_by_group(groups: Mapping[str, str], seed: int) -> Split:
    """Hold out half of the groups, the odd one included, chosen by the seed.

    Raises:
        ReelkinError: there are fewer than four groups.
    """
    names = sorted(set(groups.values()), key=lambda name: seed_of("demo split", seed, name))
    if len(names) < LEAST_GROUPS:
        raise ReelkinError(
            f"the usable videos show {len(names)} different things; at least {LEAST_GROUPS} are needed, so that half "
            "can be held out from training. Add videos, or leave VIDEOS out to see the demo's own"
        )
    held_out = set(names[: (len(names) + 1) // 2])
    ids = sorted(groups)
    return Split(
        groups=dict(groups),
        training=[video_id for video_id in ids if groups[video_id] not in held_out],
        held_out=[video_id for video_id in ids if groups[video_id] in held_out],
    )
