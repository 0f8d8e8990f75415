"""Lists of the action-recognition sets: classes (classInd.txt) and three splits (trainlist0N.txt, testlist0N.txt).

The form is that of UCF101; HMDB51 is also handed round in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from .annotation_files import LineReport, whole_number
from .annotation_tables import videos_table
from .dataset import without_extension

SPLIT_LIST = re.compile(r"(train|test)list0?([123])\.txt", re.I)
"""Name of a file with a split; its groups are the part and the split's number."""

SPLITS = ("split1", "split2", "split3")


@dataclass
class ActionLists:
    """What the lists say.

    Attributes:
        numbers: number of each class in classInd.txt, from 1.
        videos: by id the class, and for each split its part: train, test, unused or "".
        named: by id the list that names it first.
    """

    numbers: dict[str, str] = field(default_factory=dict)
    videos: dict[str, dict[str, str]] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)

    def add(self, video_id: str, label: str, split: str, part: str, path: Path) -> None:
        """A list puts a video into a part of a split."""
        self.named.setdefault(video_id, path.name)
        self.videos.setdefault(video_id, {"label": label})[split] = part

    def read_classes(self, path: Path) -> None:
        """Read classInd.txt, lines ``1 ApplyEyeMakeup``."""
        report = LineReport(path, "<number> <class>")
        for number, line in report.lines():
            first, *label = line.split(maxsplit=1)
            index = whole_number(first)
            if index is not None and label:
                self.numbers[label[0]] = str(index)
            else:
                report.drop(number, line)
        report.close()

    def read_split(self, path: Path, id_of: Callable[[str, str], str | None]) -> None:
        """Read trainlist0N.txt or testlist0N.txt, lines ``Class/video.avi`` with or without the class's number.

        Args:
            path: the list; its name tells the part and the split.
            id_of: turns class and name without extension into an id, None if it is none.
        """
        match = SPLIT_LIST.fullmatch(path.name)
        assert match, path
        report = LineReport(path, "<class>/<video>.<extension> [number]")
        for number, line in report.lines():
            label, _, name = line.rpartition("/")
            name = re.sub(r"(\.\w{2,5})\s+\d+$", r"\1", name)  # names may hold spaces, so only behind an extension
            label = label.rpartition("/")[2]
            video_id = id_of(label, without_extension(name)) if label else None
            if video_id is None:
                report.drop(number, line)
            else:
                self.add(video_id, label, f"split{match[2]}", match[1].lower(), path)
        report.close()

    def table(self, ids: list[str], more: dict[str, dict[str, str]], columns: tuple[str, ...] = ()) -> pa.Table:
        """The table "videos": label, its number, the splits, and further columns.

        Args:
            ids: all ids.
            more: attributes by id; they come before what the lists say.
            columns: names of the further columns.
        """
        facts = {}
        for video_id in ids:
            fact = {**self.videos.get(video_id, {}), **more.get(video_id, {})}
            fact["label_number"] = self.numbers.get(fact.get("label", ""), "")
            facts[video_id] = fact
        return videos_table(ids, ("label", "label_number", *columns, *SPLITS), facts)
