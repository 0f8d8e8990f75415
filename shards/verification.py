"""Verifying a folder of shards: everything that is not as it was written is found, not only the first of it.

``shards.json`` vouches for itself, for the tables and for each shard; the tables vouch for each clip. What one of them
says is compared with the others and with the bytes; where one of them is itself damaged, the rest is compared without
it. Each shard is read once, several at a time: hashing leaves Python's lock to the other threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..core.errors import ReelkinError, UsageError
from ..core.files import is_partial, sha256_bytes, sha256_file
from ..core.progress import Progress
from .index import INDEX_NAME, TABLES, Index, ShardEntry, read_index, shard_number
from .manifest import OK, REJECTED, ClipRow, from_table
from .verifying.problems import Problem, Report
from .verifying.shard import ShardFindings, check_shard
from .verifying.tables import TableChecks, check_columns, encoded

_SHOWN_BYTES = 16 << 20


def verify_shards(folder: Path, *, quick: bool = False, workers: int = 0, show_progress: bool = False) -> Report:
    """Compare everything in a folder of shards with everything else; reads each byte once.

    Args:
        quick: compare sizes, tables and headers, and read no data.
        workers: shards looked at in parallel; 0 means one per core of this machine.
        show_progress: whether to count bytes on stderr.

    Raises:
        UsageError: the folder is missing or holds nothing of a set of shards.
    """
    started = time.monotonic()
    names = _names(folder)
    if not any(name in (INDEX_NAME, *TABLES) or shard_number(name) is not None for name in names):
        raise UsageError(f"{folder} holds no shards; name the folder that shards/build.py wrote")
    report = Report(str(folder), quick)
    try:
        index = read_index(folder)
    except ReelkinError as error:
        index = None
        report.problems.append(Problem(INDEX_NAME, str(error)))
    tables = _Tables.read(folder, index, report.problems)
    checks = TableChecks()
    _check_tables(checks, tables, index)
    affected = set(checks.affected)
    report.problems += checks.problems
    work = _work(index, tables, names)
    for found in _check_shards(folder, work, quick, workers or len(os.sched_getaffinity(0)), show_progress):
        report.problems += found.problems
        affected |= found.affected
        report.num_clips += found.num_clips
        report.bytes += found.bytes
    report.problems += _check_annotations(folder, index)
    report.problems += _leftovers(names, index)
    report.affected = sorted(affected)
    report.num_shards = len(work)
    if tables.manifest is not None:
        status = tables.manifest.column("status")
        report.num_ok, report.num_rejected = (pc.sum(pc.equal(status, s)).as_py() or 0 for s in (OK, REJECTED))
    report.seconds = time.monotonic() - started
    return report


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise UsageError(f"cannot read the folder {folder}: {error.strerror}") from error


@dataclass
class _Tables:
    """The tables as far as they can be trusted.

    Attributes:
        manifest, clips: None when missing or damaged.
    """

    manifest: pa.Table | None
    clips: pa.Table | None

    @classmethod
    def read(cls, folder: Path, index: Index | None, problems: list[Problem]) -> _Tables:
        hashes = index.tables if index is not None else {}
        return cls(*(_read_table(folder / name, hashes.get(name), problems) for name in TABLES))


def _read_table(path: Path, sha256: str | None, problems: list[Problem]) -> pa.Table | None:
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.append(Problem(path.name, f"cannot be read ({error.strerror or error})"))
        return None
    if sha256 is not None and sha256_bytes(data) != sha256:
        # Such a file is not even parsed: its content would be no help, and could be harm.
        problems.append(Problem(path.name, f"not as written ({len(data)} bytes; SHA-256 differs)"))
        return None
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (OSError, pa.ArrowException) as error:
        problems.append(Problem(path.name, f"is no table ({error})"))
        return None
    found = check_columns(table, path.name)
    problems += found
    return None if found else table


def _check_tables(checks: TableChecks, tables: _Tables, index: Index | None) -> None:
    if tables.manifest is not None:
        checks.manifest(tables.manifest)
    if tables.clips is not None:
        checks.clips(tables.clips)
        if index is not None:
            checks.shards(tables.clips, index.shards)
    if tables.manifest is not None and tables.clips is not None:
        checks.both(tables.manifest, tables.clips)


@dataclass(frozen=True)
class _Work:
    """One shard to look at: its name, what shards.json says of it, and its rows of clips.parquet."""

    name: str
    entry: ShardEntry | None
    rows: pa.Table | None


def _work(index: Index | None, tables: _Tables, names: Sequence[str]) -> list[_Work]:
    """The shards of shards.json; without it, those that lie there or that clips.parquet names."""
    parts = _by_shard(tables.clips) if tables.clips is not None else None
    entries: dict[str, ShardEntry | None]
    if index is not None:
        entries = {shard.name: shard for shard in index.shards}
    else:
        every = {*names, *(parts or ())}
        entries = {name: None for name in sorted(every) if shard_number(name) is not None}
    none = None if tables.clips is None else tables.clips.slice(0, 0)
    return [_Work(name, entry, parts.get(name, none) if parts is not None else None) for name, entry in entries.items()]


def _by_shard(clips: pa.Table) -> dict[str, pa.Table]:
    codes, names = encoded(clips.column("shard"))
    if (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        clips, codes = clips.take(pa.array(order)), codes[order]
    edges = np.searchsorted(codes, np.arange(len(names) + 1)).tolist()
    return {name: clips.slice(a, b - a) for name, a, b in zip(names, edges, edges[1:], strict=False)}


class _Stopped(Exception):
    """Ends the threads when the main one was interrupted."""


class _Meter:
    """Collects the bytes that the threads pass over, and hands them on in large portions."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock, self._bytes = progress, threading.Lock(), 0
        self.stopped = False

    def advance(self, count: int) -> None:
        if self.stopped:
            raise _Stopped
        with self._lock:
            self._bytes += count
            if self._bytes < _SHOWN_BYTES:
                return
            count, self._bytes = self._bytes, 0
        self._progress.advance(0, bytes=count)

    def finish_shard(self) -> None:
        with self._lock:
            count, self._bytes = self._bytes, 0
        self._progress.advance(1, bytes=count)


def _check_shards(
    folder: Path, work: list[_Work], quick: bool, workers: int, show_progress: bool
) -> Iterator[ShardFindings]:
    def check(one: _Work) -> ShardFindings:
        rows = None if one.rows is None else from_table(one.rows, ClipRow)
        found = check_shard(folder, one.name, one.entry, rows, quick=quick, advance=meter.advance)
        meter.finish_shard()
        return found

    total = None if quick else sum(one.entry.bytes for one in work if one.entry) or None
    with Progress(len(work), "shards", "verifying shards", show_progress, total) as progress:
        meter = _Meter(progress)
        with ThreadPoolExecutor(min(workers, max(1, len(work)))) as pool:
            futures: list[Future[ShardFindings]] = [pool.submit(check, one) for one in work]
            try:
                for future in futures:
                    yield future.result()
            finally:
                meter.stopped = True
                pool.shutdown(cancel_futures=True)


def _check_annotations(folder: Path, index: Index | None) -> Iterator[Problem]:
    hashes = index.info.get("annotations", {}) if index is not None else {}
    for name, sha256 in hashes.items() if isinstance(hashes, dict) else ():
        place = f"annotations/{name}"
        if Path(name).name != name:
            yield Problem(INDEX_NAME, f"names annotations outside its folder: {name!r}")
            continue
        try:
            if sha256_file(folder / place) != sha256:
                yield Problem(place, "not as written (SHA-256 differs)")
        except OSError as error:
            yield Problem(place, f"cannot be read ({error.strerror or error})")


def _leftovers(names: Sequence[str], index: Index | None) -> Iterator[Problem]:
    listed = {shard.name for shard in index.shards} if index is not None else None
    for name in names:
        if is_partial(Path(name)):
            yield Problem(name, "was left half written by a stopped process; the next build removes it", warning=True)
        elif listed is not None and name.startswith("clips-") and name.endswith(".tar") and name not in listed:
            yield Problem(name, f"{INDEX_NAME} does not name it, so no reader looks at it; remove it", warning=True)
