"""Reading what is known about which videos show the same thing: pair lists, group lists, edited copies, VCDB.

Nothing here looks at a feature store; `positives` brings labels and stored videos together.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...core.config import super_init
from ...core.errors import ReelkinError, UsageError
from ...core.pickles import load_annotation_pickle

PAIR_COLUMNS = (("query", "video"), ("anchor", "positive"))
LABEL_FILES = ("pairs", "groups", "copies", "vcdb")
GROUP_COLUMNS = (("video_id", "group"), ("video", "group"))


@dataclass(frozen=True)
class Labels:
    """What a label file says.

    Attributes:
        pairs: (anchor, positive) video ids in file order.
        groups: group name by video id; a video alone in its group, or with an empty name, has no positive.
        overlaps: (video, other) where the video also shows a part of the other's content without being its positive.
        negatives: ids that belong to no pair and may be drawn as negatives; empty: any other video may.
        source: the file's name, for messages.
    """

    source: str
    pairs: list[tuple[str, str]] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    overlaps: list[tuple[str, str]] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)

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
    """VCDB's training annotation (vcdb.pickle): pairs and background videos. Without any label file, positives are
    edits of the features themselves."""
    validate_groups: Path | None = None
    """CSV with the columns video_id,group: held out of training, and retrieved now and then."""
    hold_out: float = 0.0
    """Share of the labelled groups to hold out for the same purpose; 0 holds out none."""

    def __post_init__(self) -> None:
        super_init(LabelSettings, self)
        given = [name for name in LABEL_FILES if getattr(self, name) is not None]
        if len(given) > 1 and given != ["groups", "copies"]:
            raise UsageError(f"--{' and --'.join(given)} were given; choose one (--groups and --copies go together)")
        if self.hold_out and (self.validate_groups or not given):
            raise UsageError("--hold-out takes its groups from a label file and cannot go with --validate-groups")

    def labelled(self) -> bool:
        """Whether a label file was given."""
        return any(getattr(self, name) is not None for name in LABEL_FILES)

    def read_labels(self) -> Labels | None:
        """The content of the label file or files; None without any."""
        if self.groups is not None and self.copies is not None:
            return copies_in_groups(read_copies(self.copies), read_groups(self.groups))
        for path, read in (
            (self.pairs, read_pairs), (self.groups, read_groups), (self.copies, read_copies), (self.vcdb, read_vcdb)
        ):  # fmt: skip
            if path is not None:
                return read(path)
        return None


def read_pairs(path: Path) -> Labels:
    """A CSV with the columns query,video or anchor,positive; a row is one pair.

    Raises:
        ReelkinError: the file cannot be read, has other columns, or an empty id.
    """
    return Labels(source=path.name, pairs=list(_rows(path, PAIR_COLUMNS)))


def read_groups(path: Path) -> Labels:
    """A CSV with the columns video_id,group; videos of one group show the same thing; an empty group means alone.

    Raises:
        ReelkinError: as `read_pairs`, or a video stands in two groups.
    """
    groups: dict[str, str] = {}
    for video_id, group in _rows(path, GROUP_COLUMNS, may_be_empty=True):
        if groups.setdefault(video_id, group) != group:
            raise ReelkinError(
                f"{path} puts {video_id!r} into the groups {groups[video_id]!r} and {group!r}; keep one, or give them "
                "one name if they show the same thing"
            )
    return Labels(source=path.name, groups={video_id: group for video_id, group in groups.items() if group})


def read_copies(path: Path) -> Labels:
    """The edits.csv of shards/edits.py: a source and its copies are one group.

    A copy that shows a second source as well (joined to it, or as a picture in the picture) stays in its own group, but
    must not be pushed away from the other one: such pairs are returned in ``overlaps``.

    Raises:
        ReelkinError: as `read_pairs`.
    """
    groups: dict[str, str] = {}
    for source_id, copy_id in _rows(path, (("source_id", "copy_id"),)):
        groups[source_id] = groups[copy_id] = source_id
    overlaps: dict[tuple[str, str], None] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            if other := (row.get("other_source_id") or "").strip():
                overlaps[str(row["copy_id"]).strip(), other] = None
    return Labels(source=path.name, groups=groups, overlaps=list(overlaps))


def copies_in_groups(copies: Labels, groups: Labels) -> Labels:
    """Edited copies of sources of which some show the same thing: a copy joins its source's group.

    Args:
        copies: of `read_copies`.
        groups: of `read_groups`; its groups win, sources that it does not name stay groups of their own.
    """
    # Group names of the two files may collide by chance; the prefixes keep them apart.
    named = {video_id: f"group {name}" for video_id, name in groups.groups.items()}
    joined = {video_id: named.get(source, f"source {source}") for video_id, source in copies.groups.items()}
    return Labels(f"{copies.source} and {groups.source}", groups={**joined, **named}, overlaps=copies.overlaps)


def read_vcdb(path: Path) -> Labels:
    """The VCDB training annotation as published (``vcdb.pickle``): 5612 pairs and 99,180 background videos.

    Raises:
        ReelkinError: the pickle is refused (see `core.pickles`), or lacks video_pairs or negs.
    """
    content = load_annotation_pickle(path)
    try:
        pairs = [(str(pair["videos"][0]), str(pair["videos"][1])) for pair in content["video_pairs"]]
        negatives = [str(video_id) for video_id in content["negs"]]
    except (KeyError, TypeError, IndexError) as error:
        raise ReelkinError(
            f"{path} is not the VCDB training annotation, with video_pairs (two videos each) and negs: {error!r}"
        ) from error
    return Labels(source=path.name, pairs=pairs, negatives=list(dict.fromkeys(negatives)))


def _rows(
    path: Path, alternatives: tuple[tuple[str, str], ...], may_be_empty: bool = False
) -> Iterator[tuple[str, str]]:
    """The two columns of a CSV under the first pair of names that its header has."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            columns = next((names for names in alternatives if set(names) <= set(header)), None)
            if columns is None:
                wanted = " or ".join(",".join(names) for names in alternatives)
                raise ReelkinError(f"{path} needs a header with the columns {wanted}; it has {','.join(header)!r}")
            for row in reader:
                first, second = ((row[name] or "").strip() for name in columns)
                if not first or not (second or may_be_empty):
                    empty = columns[0] if not first else columns[1]
                    raise ReelkinError(f"{path}, line {reader.line_num}: an empty {empty}")
                yield first, second
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReelkinError(f"cannot read {path} as CSV in UTF-8: {error}") from error
