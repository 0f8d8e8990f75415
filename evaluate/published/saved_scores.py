"""The scores that an evaluation has judged, in a file beside its results: what it takes to judge them again.

A safetensors file: ``scores`` float32 or, where that does not hold them as they are, float64 [Q, V], NaN where a pair
has no score; ``queries`` and ``database``, the ids of rows and columns in the annotation's spelling, as JSON in uint8;
and, where the order of ties counts and queries list their videos in orders of their own, ``listed`` int32 [Q, V], the
place of each column in its query's list. Rows are in the annotation's order, columns in that of the scores. What the
annotation does not know is not in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from ...core.errors import ReelkinError
from ...core.files import publishing, sha256_file
from .annotation import Annotation, ProblemLog, match_ids
from .scoring import Scores

log = logging.getLogger("reelkin.evaluate")

FORMAT, VERSION = "reelkin-scores", 1
SCORES, LISTED, QUERIES, DATABASE = "scores", "listed", "queries", "database"
TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
"""Types of the tensors, as safetensors calls them."""


@dataclass(frozen=True)
class SavedFile:
    """A file of scores as results.json names it: in the same folder, its size, and sha256 of its bytes."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SavedFile:
        """Raises KeyError, TypeError, ValueError."""
        name = str(content["name"])
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"the name {name!r} of its scores is no name of a file in the same folder")
        return cls(name, int(content["bytes"]), str(content["sha256"]))


@dataclass(frozen=True)
class SavedScores:
    """An opened file of scores; see `scoring.Scores`. A row is read when it is asked for.

    Attributes:
        path: the file.
        queries: Q ids, each once.
        database: V ids, each once.
        ordered: whether queries list their videos in orders of their own.
    """

    path: Path
    queries: Sequence[str]
    database: Sequence[str]
    ordered: bool = False

    def rows(self, queries: Sequence[str]) -> Iterator[NDArray[np.floating]]:
        """A row [V] for each of ``queries``, NaN where a pair has no score. Raises KeyError, ReelkinError."""
        return self._rows(SCORES, queries)

    def listed(self, query: str) -> NDArray[np.int32] | None:
        """The place at which a query's list has each column [V]; None: in the order of the columns."""
        return next(self._rows(LISTED, [query])) if self.ordered else None

    def _rows(self, name: str, queries: Sequence[str]) -> Iterator[NDArray[Any]]:
        row_of = {query: row for row, query in enumerate(self.queries)}
        with _opened(self.path) as file:
            values_QV = file.get_slice(name)
            for query in queries:
                row = row_of[query]
                yield values_QV[row : row + 1][0]


def write_scores(
    path: Path, annotation: Annotation, scores: Scores, max_bytes: int, *, ordered: bool
) -> SavedFile | None:
    """Write the scores that the annotation ranks, a row at a time.

    Args:
        path: the file, published when it is whole.
        annotation: whose queries and videos are kept.
        scores: similarities.
        max_bytes: a larger file is not written.
        ordered: keep the orders in which queries list their videos, if they have such.

    Returns:
        The file, or None where it would be too large or the disk has no room: then it is logged. Results are worth more
        than what can be made again.
    """
    columns = match_ids(annotation, scores.database, ProblemLog(), "video")
    if annotation.database is not None:
        known = set(annotation.database)
        columns = {video_id: column for video_id, column in columns.items() if video_id in known}
    row_of = match_ids(annotation, scores.queries, ProblemLog(), "query")
    queries = [query for query in annotation.queries if query in row_of]
    given = [scores.queries[row_of[query]] for query in queries]
    exact = all(np.asarray(row).dtype == np.float32 for row in scores.rows(given))
    listed: Callable[[str], NDArray[np.integer] | None] | None = getattr(scores, "listed", None) if ordered else None
    if listed is not None and all(listed(query) is None for query in given):
        listed = None
    shape, packed = [len(queries), len(columns)], [json.dumps(ids).encode("ascii") for ids in (queries, list(columns))]
    shapes = {SCORES: ("F32" if exact else "F64", shape), **({LISTED: ("I32", shape)} if listed else {})}
    shapes |= {name: ("U8", [len(each)]) for name, each in zip((QUERIES, DATABASE), packed, strict=True)}
    header, size = _header(shapes)
    if size > max_bytes:
        log.info("%s is not written: it takes %.2g GB, and --scores-gb is %g", path, size / 1e9, max_bytes / 1e9)
        return None
    columns_C = np.fromiter(columns.values(), dtype=np.int64, count=len(columns))

    def parts() -> Iterator[bytes]:
        yield header
        for row_V in scores.rows(given):
            yield np.asarray(row_V)[columns_C].astype(TYPES[shapes[SCORES][0]], copy=False).tobytes()
        if listed is not None:
            for query in given:
                listed_V = listed(query)
                yield (columns_C if listed_V is None else listed_V[columns_C]).astype(TYPES["I32"]).tobytes()
        yield from packed

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < size:
            raise ReelkinError(f"{path} takes {size / 1e9:.2g} GB, and the disk has not that much room")
        return SavedFile(path.name, size, _publish(path, parts()))
    except (ReelkinError, OSError) as error:
        log.warning("the scores are not written, so these results can be compared by query only: %s", error)
        return None


def _publish(path: Path, parts: Iterable[bytes]) -> str:
    """Write some bytes one after another; gives their sha256."""
    digest = hashlib.sha256()
    with publishing(path) as temporary, open(temporary, "xb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def read_scores(folder: Path, saved: SavedFile) -> SavedScores:
    """Open the scores of a result.

    Args:
        folder: of the result.
        saved: what the result says of them.

    Raises:
        ReelkinError: the file is cut off, of another run, or holds something else; says what to do.
    """
    path = folder / saved.name
    again = "evaluate again; without the file the results are compared by query only"
    try:
        size, found = path.stat().st_size, sha256_file(path)
    except OSError as error:
        raise ReelkinError(f"cannot read {path}: {error.strerror or error}") from error
    if size < saved.bytes:
        raise ReelkinError(f"{path} is cut off: {size:,} of {saved.bytes:,} bytes; {again}")
    if found != saved.sha256:
        raise ReelkinError(
            f"{path} holds the scores of another run: its sha256 is {found[:12]}, and the results beside it name "
            f"{saved.sha256[:12]}; {again}"
        )
    with _opened(path) as file:
        try:
            names = set(file.keys())
            queries, database = (_unpacked_ids(file.get_tensor(name)) for name in (QUERIES, DATABASE))
            for name, types in ((SCORES, ("F32", "F64")), (LISTED, ("I32",))):
                if name == SCORES or name in names:
                    dtype, shape = (values := file.get_slice(name)).get_dtype(), values.get_shape()
                    if dtype not in types or shape != [len(queries), len(database)]:
                        raise ValueError(
                            f"{name} is {dtype} {shape} for {len(queries)} queries, {len(database)} videos"
                        )
        except (safetensors.SafetensorError, ValueError) as error:
            raise ReelkinError(f"{path} is no file of scores ({error}); {again}") from error
    return SavedScores(path, queries, database, LISTED in names)


def _opened(path: Path) -> Any:
    """The file, mapped into memory, to be used in a with. Raises ReelkinError when it is none of this format."""
    try:
        file = safetensors.safe_open(path, "np")
        about = json.loads((file.metadata() or {}).get("reelkin", "{}"))
        if about != {"format": FORMAT, "version": VERSION}:
            raise ValueError(f"it says of itself {about}; this program reads {FORMAT}, version {VERSION}")
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise ReelkinError(f"{path} is no file of scores ({error}); evaluate again") from error
    return file


def _header(shapes: Mapping[str, tuple[str, Sequence[int]]]) -> tuple[bytes, int]:
    """What stands before tensors that follow one another in this order, and how long the whole file is. The widest
    come first: so all are aligned."""
    content: dict[str, Any] = {"__metadata__": {"reelkin": json.dumps({"format": FORMAT, "version": VERSION})}}
    end = 0
    for name, (dtype, shape) in shapes.items():
        begin, end = end, end + math.prod(shape) * TYPES[dtype].itemsize
        content[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(content).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + end


def _unpacked_ids(packed: NDArray[np.uint8]) -> list[str]:
    ids = json.loads(packed.tobytes())
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise ValueError("its ids are no list of text")
    if len(set(ids)) < len(ids):
        raise ValueError("an id stands there twice")
    return ids
