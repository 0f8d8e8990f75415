"""Trees of published data sets made small: files of one byte, annotation files with given text; listing them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from reelkin.shards.sources.inputs import Listing, SourceOptions
from reelkin.shards.sources.listing import list_videos

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "annotations"
"""Where real annotation files may lie."""

REAL_VIDEOS = PUBLISHED.parent / "videos"
"""Where real videos may lie."""


def touch(root: Path, *names: str) -> None:
    """Files of one byte."""
    for name in names:
        write(root / name, "x")


def write(path: Path, text: str | bytes) -> Path:
    """A file with this content, line ends as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return path


def write_pickle(path: Path, content: Any) -> Path:
    """A pickle as data sets are published."""
    return write(path, pickle.dumps(content, protocol=2))


def listed(root: Path, layout: str, **options: Any) -> Listing:
    """The inputs of one source."""
    return list_videos([root], layout, SourceOptions(**options))


def present(listing: Listing) -> dict[str, str]:
    """Name by id of the inputs that can be read."""
    return {entry.video_id: entry.name for entry in listing.inputs if entry.reason is None}


def missing(listing: Listing) -> dict[str, str]:
    """By id why it is missing; an input with any other reason is an error of the test."""
    rejected = [entry for entry in listing.inputs if entry.reason is not None]
    assert {entry.reason.value for entry in rejected if entry.reason} <= {"missing"}
    return {entry.video_id: entry.detail for entry in rejected}


def rows(listing: Listing, name: str) -> list[tuple[Any, ...]]:
    """Rows of an annotation table."""
    return [tuple(row.values()) for row in listing.tables[name].to_pylist()]


def pairs(listing: Listing, name: str = "pairs") -> list[tuple[str, str, str]]:
    """Query, video and label of a table of pairs."""
    return [row[:3] for row in rows(listing, name)]


def published(name: str) -> Path:
    """A real annotation file; the test is skipped where it is not."""
    if not (PUBLISHED / name).is_file():
        pytest.skip(f"no published annotation {name} beside the project")
    return PUBLISHED / name


def place_real_videos(root: Path, names: list[str]) -> list[int]:
    """Links to real videos under a data set's names; returns their sizes. Skips where there are no real videos."""
    videos = sorted(path for path in REAL_VIDEOS.glob("*") if path.suffix in {".mp4", ".webm", ".mkv"})
    if len(videos) < len(names):
        pytest.skip("no real videos beside the project")
    for name, video in zip(names, videos, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(video, root / name)
    return [video.stat().st_size for video in videos[: len(names)]]
