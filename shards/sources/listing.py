"""Which videos a build takes: sources of one layout, turned into one sorted list of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ...core.errors import UsageError
from .arrays import TREE as ARRAYS_TREE
from .arrays import find_arrays
from .cc_web_video import CC_WEB_VIDEO, find_cc_web_video
from .evve import EVVE, find_evve
from .files import find_files
from .fivr import FIVR, FIVR_5K, find_fivr, find_fivr5k
from .frame_folders import TREE as FRAMES_TREE
from .frame_folders import find_frame_folders
from .hmdb51 import HMDB51, find_hmdb51
from .inputs import Candidate, Found, Listing, SourceOptions, account_for
from .kinetics import KINETICS, find_kinetics
from .svd import SVD, find_svd
from .ucf101 import UCF101, find_ucf101
from .vcdb import VCDB, find_vcdb


@dataclass(frozen=True)
class Layout:
    """How a source may be laid out; called with a source and options it finds the inputs.

    Attributes:
        find: does that.
        tree: what it expects, one line for people.
    """

    find: Callable[[Path, SourceOptions], Found]
    tree: str

    def __call__(self, source: Path, options: SourceOptions) -> Found:
        return self.find(source, options)


LAYOUTS: dict[str, Layout] = {
    "files": Layout(lambda source, options: find_files(source), "folders of videos, single videos, lists (.txt, .csv)"),
    "frames": Layout(find_frame_folders, FRAMES_TREE),
    "npy": Layout(find_arrays, ARRAYS_TREE),
    "fivr": Layout(find_fivr, FIVR.tree),
    "fivr5k": Layout(find_fivr5k, FIVR_5K.tree),
    "vcdb": Layout(find_vcdb, VCDB.tree),
    "cc_web_video": Layout(find_cc_web_video, CC_WEB_VIDEO.tree),
    "evve": Layout(find_evve, EVVE.tree),
    "svd": Layout(find_svd, SVD.tree),
    "ucf101": Layout(find_ucf101, UCF101.tree),
    "hmdb51": Layout(find_hmdb51, HMDB51.tree),
    "kinetics": Layout(find_kinetics, KINETICS.tree),
}
"""How sources may be laid out, by name; docs/datasets.md describes the data sets."""


def list_videos(sources: Sequence[Path], layout: str = "files", options: SourceOptions | None = None) -> Listing:
    """List the inputs.

    Args:
        sources: what the layout expects; for "files" folders, video files and lists (see `files.find_files`).
        layout: a name in `LAYOUTS`.
        options: see there.

    Returns:
        The inputs sorted by id (see `inputs.account_for`). A data set may lie in several sources: a video is missing
        only if none has it, and equal rows of their annotations count once.

    Raises:
        UsageError: a source does not exist, or cannot be understood; or no source has any of the listed ids.
    """
    listing = Listing([])
    options = options or SourceOptions()
    found = [LAYOUTS[layout](Path(source), options) for source in sources]
    if options.ids is not None and not any(candidate.path for one in found for candidate in one.candidates):
        number = len({candidate.stem_id for one in found for candidate in one.candidates})
        where = ", ".join(map(str, sources))
        raise UsageError(f"ids: none of the {number} videos that {options.ids} names lies in {where}")
    for one in found:
        listing.ignored += one.ignored
        for name, table in one.tables.items():
            listing.tables[name] = _joined(listing.tables[name], table) if name in listing.tables else table
    listing.inputs = account_for(_missing_everywhere([one.candidates for one in found]))
    return listing


def _missing_everywhere(lists: list[list[Candidate]]) -> list[Candidate]:
    """All candidates but those that one source misses and another has."""
    if len(lists) == 1:
        return lists[0]
    present = [{candidate.stem_id for candidate in candidates if candidate.path} for candidates in lists]
    return [
        candidate
        for i, candidates in enumerate(lists)
        for candidate in candidates
        if candidate.path or not any(candidate.stem_id in ids for j, ids in enumerate(present) if j != i)
    ]


def _joined(first: pa.Table, second: pa.Table) -> pa.Table:
    """The different rows of both, in order; of a video what either says, the first before the second."""
    if first.schema != second.schema:
        raise UsageError(
            f"videos: the sources bring different tables ({', '.join(first.column_names)}; "
            f"{', '.join(second.column_names)}); give one data set at a time"
        )
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for row in first.to_pylist() + second.to_pylist():
        known = rows.setdefault(_key(row), row)
        if known is not row:  # of a video: what either knows
            known.update({name: value for name, value in row.items() if known[name] == ""})
    order = sorted(rows, key=lambda key: [(value is not None, value) for value in key])
    return pa.Table.from_pylist([rows[key] for key in order], schema=first.schema)


def _key(row: dict[str, object]) -> tuple[object, ...]:
    return (row["video_id"],) if "video_id" in row else tuple(row.values())
