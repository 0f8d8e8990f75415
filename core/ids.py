"""Ids of videos: which show the same thing (groups from pairs), and lists of them in files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import UsageError


def connected_components(pairs: Iterable[tuple[str, str]], ids: Iterable[str] = ()) -> dict[str, int]:
    """Number the connected components of the graph whose edges are ``pairs``.

    Args:
        pairs: undirected edges between video ids.
        ids: further ids; each one that no pair names is a component of its own.

    Returns:
        The component's number for every id. Components are numbered from 0 in the order of their smallest id, so the
        result depends on the set of edges only.
    """
    parent: dict[str, str] = {}

    def root(video_id: str) -> str:
        parent.setdefault(video_id, video_id)
        top = video_id
        while parent[top] != top:
            top = parent[top]
        while parent[video_id] != top:
            parent[video_id], video_id = top, parent[video_id]
        return top

    for left, right in pairs:
        # The smaller id becomes the root: the numbering then needs no second pass.
        first, second = sorted((root(left), root(right)))
        parent[second] = first
    for video_id in ids:
        root(video_id)
    numbers: dict[str, int] = {}
    for top in sorted({root(video_id) for video_id in parent}):
        numbers[top] = len(numbers)
    return {video_id: numbers[root(video_id)] for video_id in parent}


def read_ids(path: Path) -> list[str]:
    """Ids of a text file, one a line; empty lines are skipped. Raises UsageError if there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UsageError(f"{path} names no id; one a line is expected")
    return ids


def some_of(ids: Sequence[str]) -> str:
    """The first ten of some ids, for a message."""
    return ", ".join(map(repr, ids[:10])) + (" ..." if len(ids) > 10 else "")
