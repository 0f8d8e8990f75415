"""Which videos the demo trains on and which it holds out, split by what they show."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ReelkinError
from ..core.files import publish_text
from ..core.seeds import seed_of
from ..shards.sources import VideoInput

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
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            if {"file", "group"} <= set(next(csv.reader(file), [])):
                return path
    return None


def read_groups(path: Path, inputs: Iterable[VideoInput]) -> dict[str, str]:
    """Group of every input; one that the file does not name, or names with an empty group, is a group of its own.

    Raises:
        ReelkinError: the file lacks the columns, or names none of the videos.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    column = "file" if rows and "file" in rows[0] else "video_id"
    if not rows or not {column, "group"} <= set(rows[0]):
        raise ReelkinError(f"{path} needs a header with the columns file (or video_id) and group, and rows below it")
    named = {row[column]: (row["group"] or "").strip() for row in rows}
    groups, known = {}, 0
    for entry in inputs:
        found = next((named[name] for name in (entry.name, entry.video_id) if name in named), None)
        known += found is not None
        groups[entry.video_id] = found or entry.video_id
    if not known:
        raise ReelkinError(
            f"{path} names none of the videos; its column {column} holds for example {next(iter(named))!r}"
        )
    return groups


def split_by_group(groups: Mapping[str, str], seed: int) -> Split:
    """Hold out half of the groups, the odd one included, chosen by the seed.

    Raises:
        ReelkinError: there are fewer than four groups.
    """
    names = sorted(set(groups.values()), key=lambda name: seed_of("demo split", seed, name))
    if len(names) < LEAST_GROUPS:
        raise ReelkinError(
            f"the videos show {len(names)} different things; at least {LEAST_GROUPS} are needed, so that half can be "
            "held out from training. Add videos, or leave VIDEOS out to see the demo's own"
        )
    held_out = set(names[: (len(names) + 1) // 2])
    ids = sorted(groups)
    return Split(
        groups=dict(groups),
        training=[video_id for video_id in ids if groups[video_id] not in held_out],
        held_out=[video_id for video_id in ids if groups[video_id] in held_out],
    )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Publish a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    publish_text(path, text.getvalue())
