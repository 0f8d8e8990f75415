"""The list of videos that were taken out of a store on request, which keeps them out of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...core.errors import Reason, ReelkinError
from ...core.files import publish_json, read_json
from .rows import StoreRow

REMOVED = "removed.json"
FORMAT, VERSION = "reelkin-features-removed", 1
DETAIL = "taken out on request"


def read_removed(folder: Path) -> frozenset[str]:
    """Ids that were taken out of the store in ``folder``. Raises ReelkinError when the list is damaged."""
    path = folder / REMOVED
    if not path.exists():
        return frozenset()
    found = read_json(path)
    try:
        if (found["format"], found["version"]) != (FORMAT, VERSION):
            raise KeyError(f"{found['format']} {found['version']}")
        return frozenset(map(str, found["video_ids"]))
    except (KeyError, TypeError) as error:
        raise ReelkinError(
            f"{path} is no list of removed videos ({error}); put back the copy that belongs to this store: without it "
            "a rerun would bring removed videos back"
        ) from error


def write_removed(folder: Path, video_ids: Iterable[str]) -> None:
    """Publish the list."""
    publish_json(folder / REMOVED, {"format": FORMAT, "version": VERSION, "video_ids": sorted(video_ids)})


def removed_row(video_id: str) -> StoreRow:
    """The manifest row of a video that was taken out."""
    return StoreRow.rejected(video_id, Reason.REMOVED.value, DETAIL)
