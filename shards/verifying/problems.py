"""What a verification finds, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ...core.errors import ReelkinError

_NAMED_IDS = 5
_NAMED_PROBLEMS = 20  # a file; the JSON list holds them all
_FORMAT, _VERSION = "reelkin-verification", 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was written.

    Attributes:
        file: name in the folder; moving this file away and building again mends it.
        text: what was found.
        offset: byte of the file, or -1 where there is no one place.
        key: of the clip, "" where it is not about one.
        video_id: of the clip, as far as it is known.
        warning: nothing is damaged.
    """

    file: str
    text: str
    offset: int = -1
    key: str = ""
    video_id: str = ""
    warning: bool = False

    def __str__(self) -> str:
        place = f" at byte {self.offset}" if self.offset >= 0 else ""
        clip = f" clip {self.key}" if self.key else ""
        video = f" ({self.video_id!r})" if self.video_id else ""
        about = place + clip + video
        return f"{'warning' if self.warning else 'damaged'} {self.file}{about}: {self.text}"


@dataclass
class Report:
    """What a verification came to.

    Attributes:
        folder: as it was given.
        quick: whether the data was left unread.
        problems: in the order of the files.
        affected: ids of the videos of which something is damaged or missing, in ascending order.
        num_ok, num_rejected: rows of the manifest.
        num_clips, num_shards, bytes: what was looked at; bytes are those of the shards.
        seconds: how long it took.
    """

    folder: str
    quick: bool
    problems: list[Problem] = field(default_factory=list)
    affected: list[str] = field(default_factory=list)
    num_ok: int = 0
    num_rejected: int = 0
    num_clips: int = 0
    num_shards: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def damage(self) -> list[Problem]:
        """Problems that are more than warnings."""
        return [problem for problem in self.problems if not problem.warning]

    @property
    def damaged_files(self) -> list[str]:
        """Names of the files with damage, each once."""
        return list(dict.fromkeys(problem.file for problem in self.damage))

    def lines(self) -> list[str]:
        """The report for a person; at most 20 problems a file."""
        shown: dict[str, int] = {}
        lines = []
        for problem in self.problems:
            shown[problem.file] = shown.get(problem.file, 0) + 1
            if shown[problem.file] <= _NAMED_PROBLEMS:
                lines.append(str(problem))
        more = {name: count - _NAMED_PROBLEMS for name, count in shown.items() if count > _NAMED_PROBLEMS}
        lines += [f"{name}: and {count} more; --json FILE lists them all" for name, count in more.items()]
        lines.append(
            f"{self.num_ok + self.num_rejected} inputs: {self.num_ok} ok, {self.num_rejected} rejected; "
            f"{self.num_clips} clips in {self.num_shards} shards, {self.bytes / 1e6:.1f} MB, {self.seconds:.1f} s"
        )
        return [*lines, self.verdict()]

    def verdict(self) -> str:
        """What is damaged, which videos that concerns, and what to do; one paragraph."""
        if not self.damage:
            if self.quick:
                return f"{self.folder} is whole as far as sizes, tables and headers tell; no data was read (--quick)"
            return f"{self.folder} is whole: every byte is as it was written"
        files = self.damaged_files
        there = [name for name in files if os.path.lexists(os.path.join(self.folder, name))]
        it = "them" if len(there) > 1 else "it"
        move = f"move {_some(there)} out of {self.folder} (or remove {it}) and " if there else ""
        anew = "them" if len(files) > 1 else "it"
        return (
            f"{self.folder} is damaged: {_some(files)}. {self._affected_in_words()}. To repair it, {move}run the same "
            f"shards/build.py command again: it makes {anew} anew from the original videos and leaves the rest as it is"
        )

    def _affected_in_words(self) -> str:
        count = len(self.affected)
        if not count:
            return "No video's bytes are known to be affected"
        return f"{count} {'videos are' if count > 1 else 'video is'} affected: {_some(map(repr, self.affected))}"

    def raise_if_damaged(self) -> None:
        """Raises ReelkinError with the first problem of each file and the verdict; warnings are no reason."""
        if self.damage:
            first = {problem.file: problem for problem in reversed(self.damage)}
            raise ReelkinError("\n".join([*(str(first[name]) for name in self.damaged_files[:10]), self.verdict()]))

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        values = asdict(self)
        return {"format": _FORMAT, "version": _VERSION, "whole": not self.damage, **values}


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED_IDS} more" if len(every) > _NAMED_IDS else ""
    return ", ".join(every[:_NAMED_IDS]) + more
