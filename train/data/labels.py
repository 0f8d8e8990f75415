"""Reading what is known about which videos show the same thing: pair lists, group lists, edited copies, VCDB.

Nothing here looks at a feature store; `positives` brings labels and stored videos together.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.config import super_init
from ...core.errors import ReelkinError, UsageError
from ...core.ids import read_ids
from ...core.pickles import load_annotation_pickle
from ...core.tables import csv_rows
from .findings import Finding, Findings

PAIR_COLUMNS = (("query", "video"), ("anchor", "positive"))
LABEL_FILES = ("pairs", "groups", "copies", "vcdb", "pseudo_labels")
LABEL_NAMES = frozenset({"ND", "DS", "CS", "IS", "DA"})
"""FIVR's labels. In its published annotation (the one with audio) they stand among the ids of videos."""
GROUP_COLUMNS = (("video_id", "group"), ("video", "group"))


@dataclass(frozen=True)
class Labels:
    """What a label file says.

    Attributes:
        pairs: (anchor, positive) video ids in file order, each two videos once.
        groups: group name by video id; a video alone in its group, or with an empty name, has no positive.
        overlaps: (video, other) where the video also shows a part of the other's content without being its positive.
        negatives: ids that belong to no pair and may be drawn as negatives; empty: any other video may.
        source: the file's name, for messages.
        findings: what was odd about the file, and what was done about it.
    """

    source: str
    pairs: list[tuple[str, str]] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    overlaps: list[tuple[str, str]] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        return f"Labels({self.source!r}: {len(self.pairs)} pairs, {len(set(self.groups.values()))} groups)"


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """What shows the same thing, and what of it is held out."""

    pairs: Path | None = None
    """CSV with the columns query,video or anchor,positive: annotated pairs."""
    groups: Path | None = None
    """CSV with the columns video_id,group: videos of a group show the same thing."""
    copies: Path | None = None
    """edits.csv of shards/edits.py: each source and its edited copies are a group; with --groups, the sources' groups
    join them."""
    vcdb: Path | None = None
    """VCDB's training annotation (vcdb.pickle): pairs, and background videos for --negatives-per-anchor to draw from.
    Without any label file, positives are edits of the features themselves."""
    pseudo_labels: Path | None = None
    """CSV of train/pseudo_labels.py: clusters of videos without labels, taken for groups."""
    negatives: Path | None = None
    """Text file, an id a line: videos to draw negatives from (--negatives-per-anchor). Default: the background videos
    of --vcdb; with other labels, everything. An anchor's own group is never drawn."""
    swap_pairs: bool = True
    """Either video of a pair may be the anchor. Off, it is always the first, as published."""
    max_missing_share: float = 0.2
    """Largest share of the labelled videos whose features may be missing; above it nothing is trained."""
    validate_groups: Path | None = None
    """CSV with the columns video_id,group: held out of training, and retrieved now and then."""
    validate_pairs: Path | None = None
    """The same as a CSV of pairs, with the columns query,video or anchor,positive; what pairs connect is a group."""
    hold_out: float = 0.0
    """Share of the labelled groups to hold out for the same purpose; 0 holds out none."""

    def __post_init__(self) -> None:
        super_init(LabelSettings, self)
        given = [name for name in LABEL_FILES if getattr(self, name) is not None]
        if len(given) > 1 and given != ["groups", "copies"]:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"{flags} were given; choose one (--groups and --copies go together)")
        if not 0 <= self.max_missing_share <= 1:
            raise UsageError(f"--max-missing-share is {self.max_missing_share}; it is a share of the videos, 0 to 1")
        held = [name for name in ("validate_groups", "validate_pairs") if getattr(self, name) is not None]
        if len(held) > 1:
            raise UsageError("--validate-groups and --validate-pairs were given; choose one")
        if self.hold_out and (held or not given):
            raise UsageError(
                "--hold-out takes its groups from a label file and cannot go with --validate-groups or --validate-pairs"
            )

    def labelled(self) -> bool:
        """Whether a label file was given."""
        return any(getattr(self, name) is not None for name in LABEL_FILES)

    def read_labels(self) -> Labels | None:
        """The content of the label file or files; None without any."""
        if self.groups is not None and self.copies is not None:
            return copies_in_groups(read_copies(self.copies), read_groups(self.groups))
        for path, read in (
            (self.pairs, read_pairs), (self.groups, read_groups), (self.copies, read_copies), (self.vcdb, read_vcdb),
            (self.pseudo_labels, read_groups),
        ):  # fmt: skip
            if path is not None:
                return read(path)
        return None

    def read_negatives(self) -> list[str] | None:
        """The ids of the file of negatives, which go before those of the labels; None without one."""
        return None if self.negatives is None else read_ids(self.negatives)


def read_pairs(path: Path) -> Labels:
    """A CSV with the columns query,video or anchor,positive; a row is one pair.

    Pairs of a video with itself, pairs given again (also the other way round) and names of labels are left out and
    counted in ``findings``.

    Raises:
        ReelkinError: the file cannot be read, has other columns, or an empty id.
    """
    findings = Findings()
    pairs = _clean_pairs(_rows(path, PAIR_COLUMNS), findings)
    return Labels(source=path.name, pairs=pairs, findings=findings.listed())


def read_groups(path: Path) -> Labels:
    """A CSV with the columns video_id,group; videos of one group show the same thing; an empty group means alone.

    Raises:
        ReelkinError: as `read_pairs`, or a video stands in two groups.
    """
    groups: dict[str, str] = {}
    findings = Findings()
    for video_id, group in _rows(path, GROUP_COLUMNS, may_be_empty=True):
        if video_id in LABEL_NAMES:
            findings.add(LABEL_AS_ID, video_id)
            continue
        if video_id in groups:
            findings.add("videos listed more than once, counted once", video_id)
        if groups.setdefault(video_id, group) != group:
            raise ReelkinError(
                f"{path} puts {video_id!r} into the groups {groups[video_id]!r} and {group!r}; keep one, or give them "
                "one name if they show the same thing"
            )
    grouped = {video_id: group for video_id, group in groups.items() if group}
    return Labels(source=path.name, groups=grouped, findings=findings.listed())


def read_copies(path: Path) -> Labels:
    """The edits.csv of shards/edits.py: a source and its copies are one group, copies of copies included.

    A copy that shows a second source as well (joined to it, or as a picture in the picture) stays in its own group, but
    must not be pushed away from the other one: such pairs are returned in ``overlaps``. So are the further sources of a
    copy that several rows name.

    Raises:
        ReelkinError: as `read_pairs`.
    """
    findings = Findings()
    source_of: dict[str, str] = {}
    members: dict[str, None] = {}
    overlaps: dict[tuple[str, str], None] = {}
    for source_id, copy_id in _rows(path, (("source_id", "copy_id"),)):
        if source_id == copy_id:
            findings.add("copies of themselves, left out", copy_id)
            continue
        members[source_id] = members[copy_id] = None
        if source_of.setdefault(copy_id, source_id) != source_id:
            findings.add("copies of several sources, a positive of the first only and a negative of none", copy_id)
            overlaps[copy_id, source_id] = None
    for _, row in csv_rows(path):
        if other := row.get("other_source_id"):
            overlaps[row["copy_id"], other] = None
    groups = {video_id: _origin(video_id, source_of) for video_id in members}
    return Labels(source=path.name, groups=groups, overlaps=list(overlaps), findings=findings.listed())


def _origin(video_id: str, source_of: dict[str, str]) -> str:
    """Where a chain of copies begins; a ring of copies begins at its smallest id."""
    seen = [video_id]
    while (source := source_of.get(seen[-1])) is not None:
        if source in seen:
            return min(seen[seen.index(source) :])
        seen.append(source)
    return seen[-1]


def copies_in_groups(copies: Labels, groups: Labels) -> Labels:
    """Edited copies of sources of which some show the same thing: a copy joins its source's group.

    Args:
        copies: of `read_copies`.
        groups: of `read_groups`; its groups win, sources that it does not name stay groups of their own.
    """
    # Group names of the two files may collide by chance; the prefixes keep them apart.
    named = {video_id: f"group {name}" for video_id, name in groups.groups.items()}
    joined = {video_id: named.get(source, f"source {source}") for video_id, source in copies.groups.items()}
    source, findings = f"{copies.source} and {groups.source}", copies.findings + groups.findings
    return Labels(source, groups={**joined, **named}, overlaps=copies.overlaps, findings=findings)


LABEL_AS_ID = "names of labels in the place of ids, left out"
UNLISTED = "ids that the annotation's own index does not list, kept"


def read_vcdb(path: Path) -> Labels:
    """The VCDB training annotation as published (``vcdb.pickle``): 5612 pairs and 99,180 background videos.

    Entries that cannot be meant (see ``findings``) are left out and counted; overlaps are not used.

    Raises:
        ReelkinError: the pickle is refused (see `core.pickles`), lacks video_pairs or negs, or holds no pair.
    """
    content = load_annotation_pickle(path)
    wanted = f"{path} is not the VCDB training annotation, with video_pairs (two videos each) and negs"
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), (list, tuple, set)) for key in ("video_pairs", "negs")
    ):
        raise ReelkinError(
            f"{wanted}: it holds {sorted(map(_text, content)) if isinstance(content, dict) else 'others'}"
        )
    findings = Findings()
    pairs = _clean_pairs(_vcdb_pairs(content["video_pairs"], findings), findings)
    if not pairs:
        raise ReelkinError(f"{wanted}: none of its {len(content['video_pairs'])} pairs can be used")
    paired = dict.fromkeys(video_id for pair in pairs for video_id in pair)
    negatives = _distinct(content["negs"], "background videos", findings)
    findings.add_all(
        "videos both in a pair and in the background, no negatives any more",
        (each for each in negatives if each in paired),
    )
    index = content.get("index")
    if isinstance(index, (list, tuple, set)):
        listed = set(_distinct(index, "videos of the index", findings))
        findings.add_all(UNLISTED, (each for each in [*paired, *negatives] if each not in listed))
    negatives = [video_id for video_id in negatives if video_id not in paired]
    return Labels(source=path.name, pairs=pairs, negatives=negatives, findings=findings.listed())


def _vcdb_pairs(entries: Iterable[Any], findings: Findings) -> Iterator[tuple[str, str]]:
    """The two ids of each entry that has two."""
    for entry in entries:
        videos = entry.get("videos") if isinstance(entry, dict) else None
        if not (isinstance(videos, (list, tuple)) and len(videos) == 2 and all(map(_is_id, videos))):
            findings.add("entries that are no pair of ids, left out", _short(entry))
            continue
        overlaps = entry.get("overlap")
        for value in overlaps if isinstance(overlaps, (list, tuple)) else []:
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):
                where = f"{videos[0]}, {videos[1]}"
                findings.add("overlaps that are no share from 0 to 1, not used", f"{where}: {_text(value)}")
        yield videos[0], videos[1]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _short(value: Any) -> str:
    """What something looks like, also where writing all of it would take for ever: lists nested a million times, or
    each in the next one twice; whole numbers of a million digits."""
    try:
        return reprlib.repr(value)[:80]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _short(value)


def _distinct(values: Iterable[Any], what: str, findings: Findings) -> list[str]:
    """Ids without repetition, in the order given; those of a set sorted."""
    found: dict[str, None] = {}
    for value in sorted(values, key=_text) if isinstance(values, set) else values:
        if not _is_id(value):
            findings.add(f"{what} that are no ids, left out", _short(value))
        elif value in LABEL_NAMES:
            findings.add(LABEL_AS_ID, value)
        elif value in found:
            findings.add(f"{what} listed more than once, counted once", value)
        else:
            found[value] = None
    return list(found)


def _clean_pairs(pairs: Iterable[tuple[str, str]], findings: Findings) -> list[tuple[str, str]]:
    """Pairs of two different videos, each once, in the order given."""
    kept: dict[tuple[str, str], tuple[str, str]] = {}
    for first, second in pairs:
        name = f"{first}, {second}"
        if first in LABEL_NAMES or second in LABEL_NAMES:
            findings.add(LABEL_AS_ID, name)
        elif first == second:
            findings.add("pairs of a video with itself, left out", first)
        elif (key := (min(first, second), max(first, second))) in kept:
            findings.add("pairs given again, or the other way round, counted once", name)
        else:
            kept[key] = first, second
    return list(kept.values())


def _rows(
    path: Path, alternatives: tuple[tuple[str, str], ...], may_be_empty: bool = False
) -> Iterator[tuple[str, str]]:
    """The two columns of a CSV under the first pair of names that its header has."""
    for line, row in csv_rows(path, alternatives):
        columns = next(names for names in alternatives if set(names) <= row.keys())
        first, second = (row[name] for name in columns)
        if not first or not (second or may_be_empty):
            raise ReelkinError(f"{path}, line {line}: an empty {columns[0] if not first else columns[1]}")
        yield first, second
