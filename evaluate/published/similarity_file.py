"""Similarities from a file: the JSON form of ViSiL, DnS and S2VS, read as a stream, or a matrix in an .npz file.

A file that says anything doubtful is refused with the place: a pair with two scores, a score that is no finite number
or an empty query would otherwise change a figure without a word.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import ijson
import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...core.files import sha256_file
from ...core.ids import some_of
from ...core.progress import Progress
from .annotation import Problem

ID_BYTES = 200
"""What an id and its place in the table of ids take in memory, roughly."""
PAIRS_A_CHECK = 1 << 20
"""Memory is checked after so many pairs of one query."""
BUFFER_BYTES = 1 << 20
SHOWN_BYTES = 20 * 10**6
"""Reading a file of this size shows its progress."""
ARRAYS = ("queries", "database", "similarities")
JSON_FORM = "{query: {video: similarity}}"
NPZ_FORM = "an .npz file with queries [Q] and database [V] (text) and similarities [Q, V] (numbers)"
UNSCORED = "leave out pairs that have no score"

NO_JSON = {
    b"\xff\xfe": "is UTF-16 or UTF-32; write it as UTF-8",
    b"\xfe\xff": "is UTF-16; write it as UTF-8",
    b"\x1f\x8b": "is packed by gzip; unpack it first (gunzip)",
    b"PK": "is a zip archive; if it is an .npz file, name it so, else unpack it first",
    b"\xfd7zXZ": "is packed by xz; unpack it first (unxz)",
    b"(\xb5/\xfd": "is packed by zstd; unpack it first (unzstd)",
    b"BZh": "is packed by bzip2; unpack it first (bunzip2)",
}
"""What a file is that begins so."""
UTF8_MARK = b"\xef\xbb\xbf"

Columns = NDArray[np.int32]
Values = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class FileScores:
    """Similarities that a file holds; see `scoring.Scores`.

    Attributes:
        queries: ids with a row, in the file's order.
        database: ids of the columns, in the order in which the file first names them.
        facts: which file it was: name, bytes, sha256.
        problems: none; what is wrong in a file is refused.
    """

    queries: Sequence[str]
    database: Sequence[str]
    facts: Mapping[str, Any]
    _rows: Mapping[str, tuple[Columns | None, Values]]
    problems: tuple[Problem, ...] = ()

    def rows(self, queries: Sequence[str]) -> Iterator[Values]:
        """A row [V] for each of ``queries``, NaN where the file has no score: float32 if that holds its scores as they
        are, else float64. Raises KeyError."""
        for query in queries:
            columns, values = self._rows[query]
            row_V = np.full(len(self.database), np.nan, dtype=values.dtype)
            row_V[slice(len(values)) if columns is None else columns] = values
            yield row_V

    def listed(self, query: str) -> Columns | None:
        """The place at which the file lists each column for a query [V]; None: in the order of the columns."""
        columns, _ = self._rows[query]
        if columns is None:
            return None
        listed_V = np.full(len(self.database), len(columns), dtype=np.int32)
        listed_V[columns] = np.arange(len(columns), dtype=np.int32)
        return listed_V


def read_similarities(path: str | Path, max_bytes: int = 8 * 10**9) -> FileScores:
    """Read a similarity file.

    Args:
        path: JSON ``{query: {video: similarity}}`` (a query need not have all videos), or an ``.npz`` file with
            ``queries`` [Q] and ``database`` [V] (text) and ``similarities`` [Q, V] (floating point). Scores are kept
            as they are: rounded, different ones could tie.
        max_bytes: bound on what is held; the file itself may be larger.

    Raises:
        UsageError: the file cannot be read, is cut off or built otherwise, names a query or a pair twice, holds a score
            that is no finite number, or needs more than ``max_bytes``; says where, and what to do.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UsageError(f"--similarities {path} is no file; give {JSON_FORM} as JSON, or {NPZ_FORM}")
        return _read_npz(path, size, max_bytes) if path.suffix == ".npz" else _JsonReader(path, size, max_bytes).read()
    except OSError as error:
        raise UsageError(f"--similarities {path} cannot be read: {error.strerror or error}") from error


class _Hashed:
    """A file that is hashed, and whose progress is shown, while it is read."""

    def __init__(self, file: IO[bytes], progress: Progress | None) -> None:
        self._file, self._progress = file, progress
        self.digest = hashlib.sha256()
        self._bytes = 0

    def read(self, count: int = -1) -> bytes:
        """As of any file."""
        data = self._file.read(count)
        self.digest.update(data)
        if self._progress is not None:
            self._progress.advance((self._bytes + len(data)) // 10**6 - self._bytes // 10**6)
        self._bytes += len(data)
        return data


class _JsonReader:
    def __init__(self, path: Path, size: int, max_bytes: int) -> None:
        self.path, self.size, self.max_bytes = path, size, max_bytes
        self.columns: dict[str, int] = {}
        self.found: dict[str, tuple[Columns | None, Values]] = {}
        self.place = "its beginning"
        self.held = 0

    def read(self) -> FileScores:
        """The whole file. Raises UsageError."""
        large = self.size >= SHOWN_BYTES
        shown = Progress(self.size // 10**6, "MB", "similarities") if large else nullcontext()
        with open(self.path, "rb") as file, shown as progress:
            hashed = _Hashed(file, progress)
            self._begin(file, hashed)
            try:
                self._queries(ijson.basic_parse(hashed, use_float=True, buf_size=BUFFER_BYTES))
            except ijson.JSONError as error:
                said = str(error).strip().partition("\n")[0]
                self._refuse(
                    f"is no valid JSON after {self.place} ({said}): it is cut off or damaged, or holds NaN or "
                    f"Infinity, which JSON does not have; {UNSCORED}"
                )
            except UnicodeDecodeError:
                self._refuse(f"is no valid UTF-8 after {self.place}: an id there has bytes that are no text")
            facts = {"similarities": self.path.name, "bytes": self.size, "sha256": hashed.digest.hexdigest()}
        if not self.found:
            self._refuse(f"holds no query; expected {JSON_FORM}")
        return FileScores(tuple(self.found), tuple(self.columns), facts, self.found)

    def _begin(self, file: IO[bytes], hashed: _Hashed) -> None:
        """Refuse, by its first bytes, what is no plain JSON; pass over a mark of UTF-8. Raises UsageError."""
        begins = file.read(8)
        file.seek(0)
        for mark, what in NO_JSON.items():
            if begins.startswith(mark):
                self._refuse(what)
        if begins.startswith(UTF8_MARK):
            hashed.read(len(UTF8_MARK))

    def _refuse(self, text: str) -> NoReturn:
        raise UsageError(f"--similarities {self.path} ({self.size:,} bytes) {text}")

    def _queries(self, events: Iterator[tuple[str, Any]]) -> None:
        event, value = next(events, ("null", None))
        if event != "start_map":
            self._refuse(f"holds {_what(event, value)} at its top; expected {JSON_FORM}")
        for event, query in events:
            if event == "end_map":
                break
            self.place = f"query {query!r}"
            if query in self.found:
                self._refuse(f"names the query {query!r} twice; every query must stand in it once")
            event, value = next(events)
            if event != "start_map":
                self._refuse(f"holds {_what(event, value)} for the query {query!r}; expected {JSON_FORM}")
            self.found[query] = self._row(events, query)
        for _ in events:  # the parser refuses what follows the end
            pass

    def _row(self, events: Iterator[tuple[str, Any]], query: str) -> tuple[Columns | None, Values]:
        columns, column_of = array("i"), self.columns
        values = array("d")
        video = ""
        for event, value in events:
            if event == "map_key":
                video = value
            elif event == "number":
                try:
                    values.append(value)
                except OverflowError:
                    values.append(np.inf)
                columns.append(column_of.setdefault(video, len(column_of)))
                if not len(columns) % PAIRS_A_CHECK:
                    self.place = f"query {query!r}, video {video!r}"
                    self._check_memory(12 * len(columns))
            elif event == "end_map":
                break
            else:
                self._refuse(
                    f"holds {_what(event, value)} as the score of query {query!r}, video {video!r}; scores are "
                    f"numbers: {UNSCORED}"
                )
        return self._checked(query, np.frombuffer(columns, np.int32), np.frombuffer(values, np.float64))

    def _checked(self, query: str, columns: Columns, exact: NDArray[np.float64]) -> tuple[Columns | None, Values]:
        if not len(columns):
            self._refuse(f"has no score for the query {query!r}; leave such queries out")
        bad = ~np.isfinite(exact)
        if bad.any():
            videos = self._named(columns[bad])
            self._refuse(
                f"holds {int(bad.sum())} scores of query {query!r} that are no finite numbers: of {some_of(videos)}; "
                f"{UNSCORED}"
            )
        values = _smallest(exact)
        kept, counts = np.unique(columns, return_counts=True)
        if len(kept) < len(columns):
            videos = self._named(kept[counts > 1])
            self._refuse(
                f"gives query {query!r} more than one score for {len(videos)} videos: {some_of(videos)}; every pair "
                "must have one"
            )
        in_order = bool((columns == np.arange(len(columns), dtype=np.int32)).all())
        self.held += values.nbytes + (0 if in_order else columns.nbytes)
        self._check_memory(0)
        return (None if in_order else columns.copy()), values

    def _named(self, columns: Columns) -> list[str]:
        wanted = set(columns.tolist())
        return [video for video, column in self.columns.items() if column in wanted]

    def _check_memory(self, more: int) -> None:
        needed = self.held + more + ID_BYTES * len(self.columns)
        if needed > self.max_bytes:
            self._refuse(
                f"holds similarities that need over {needed / 1e9:.2g} GB (up to {self.place}), and --max-memory-gb is "
                f"{self.max_bytes / 1e9:.3g}; raise that, leave out the videos that the annotation does not name, or "
                f"give {NPZ_FORM}, of float32, which needs 4 bytes a pair"
            )


def _smallest(exact: NDArray[np.float64]) -> Values:
    """The same numbers as float32 if that has them all, as what float32 systems write, else as they are."""
    with np.errstate(over="ignore"):
        values = exact.astype(np.float32)
    return values if np.array_equal(values, exact) else exact.copy()


def _what(event: str, value: Any) -> str:
    names = {"null": "null", "start_array": "a list", "start_map": "an object", "end_map": "nothing"}
    return names.get(event) or f"the {event} {str(value)[:50]!r}"


def _read_npz(path: Path, size: int, max_bytes: int) -> FileScores:
    def refuse(text: str) -> NoReturn:
        raise UsageError(f"--similarities {path} ({size:,} bytes) {text}; expected {NPZ_FORM}")

    try:
        shapes = _npz_shapes(path)
        if missing := [name for name in ARRAYS if name not in shapes]:
            refuse(f"lacks {', '.join(missing)}")
        needed = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in (shapes[name] for name in ARRAYS))
        (num_queries, num_videos), kind = (*shapes["similarities"][0], 0, 0)[:2], shapes["similarities"][1].kind
        ids_shapes = [shapes[name][0] for name in ARRAYS[:2]]
        if (
            [len(shape) for shape in ids_shapes] != [1, 1]
            or shapes["similarities"][0] != sum(ids_shapes, ())
            or kind != "f"
        ):
            found = ", ".join(f"{name} {shapes[name][1]} {list(shapes[name][0])}" for name in ARRAYS)
            refuse(f"holds {found}")
        if any(shapes[name][1].kind != "U" for name in ARRAYS[:2]):
            refuse(f"holds ids of the types {', '.join(str(shapes[name][1]) for name in ARRAYS[:2])}, not text")
        needed += 4 * num_queries * num_videos + ID_BYTES * (num_queries + num_videos)
        if needed > max_bytes:
            refuse(f"needs {needed / 1e9:.2g} GB, and --max-memory-gb is {max_bytes / 1e9:.3g}; raise that")
        with np.load(path, allow_pickle=False) as content:
            queries, database = (content[name].tolist() for name in ARRAYS[:2])
            exact_QV = content["similarities"]
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError) as error:
        if isinstance(error, UsageError):
            raise
        refuse(f"cannot be read ({error}): it is cut off or damaged, or holds Python objects")
    for name, ids in (("queries", queries), ("database", database)):
        if repeated := [video_id for video_id, count in Counter(ids).items() if count > 1]:
            refuse(f"names {len(repeated)} ids of {name} more than once: {some_of(repeated)}")
    with np.errstate(over="ignore"):
        value_QV = exact_QV.astype(np.float32 if exact_QV.dtype.itemsize <= 4 else np.float64, copy=False)
    for query, row_V in zip(queries, value_QV, strict=True):
        bad = np.flatnonzero(~np.isfinite(row_V))
        if len(bad):
            videos = [database[column] for column in bad[:11]]
            refuse(
                f"holds {len(bad)} scores of query {query!r} that are no finite numbers: of {some_of(videos)}; pairs "
                "without a score can be left out of the JSON form"
            )
    if not queries or not database:
        refuse("holds no query or no video")
    facts = {"similarities": path.name, "bytes": size, "sha256": sha256_file(path)}
    rows: dict[str, tuple[Columns | None, Values]] = {
        query: (None, row_V) for query, row_V in zip(queries, value_QV, strict=True)
    }
    return FileScores(tuple(queries), tuple(database), facts, rows)


def _npz_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array of an .npz file, from their headers alone."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as file:
                    first = np.lib.format.read_magic(file) == (1, 0)
                    read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read_header(file)
                    shapes[name.removesuffix(".npy")] = shape, dtype
    return shapes
