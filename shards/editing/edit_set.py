"""A set of edited copies: which are to be made, which are there already, and the tables that list them.

The folder holds the copies, ``edits.csv`` (a row per matching segment, published last), ``other_segments.csv`` (where
a copy shows its second video), ``rejects.csv`` (a row per video that could not be used), ``outcome.json``, and
``.records/`` with a record per copy, from which a later run sees what is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import DataError, ExitCode, Reason, ReelkinError, UsageError
from ...core.files import publish_json, publish_text
from ...core.progress import Progress
from ...core.tables import publish_csv
from ..sources.inputs import Listing, VideoInput
from ..sources.listing import list_videos
from ..video.isolation import ProbePool
from .config import EditsConfig
from .plan import plan_copies, safe_name
from .work import Failure, Task, make_all, read_record

logger = logging.getLogger(__name__)

RECORDS = ".records"
SEGMENT_COLUMNS = ("source_start_seconds", "source_end_seconds", "copy_start_seconds", "copy_end_seconds")
EDITS_COLUMNS = (
    *("copy_id", "source_id", "strength", "edits", "seed"),
    *SEGMENT_COLUMNS,
    *("other_source_id", "fps", "width", "height"),
)
OTHER_COLUMNS = ("copy_id", "other_source_id", *SEGMENT_COLUMNS)
REJECTS_COLUMNS = ("source_id", "path", "reason", "detail")

# For a dry run: measured on one core with 240 lines at 15 pictures a second.
_ROUGH_PICTURES_PER_SECOND = 110.0
_ROUGH_BYTES_PER_PICTURE = 1500.0


@dataclass(frozen=True)
class EditsOutcome:
    """How a run ended: counts, and the command's exit code."""

    num_videos: int
    num_rejected: int
    num_copies: int
    num_made_now: int
    exit_code: int


def dry_run_text(config: EditsConfig) -> str:
    """What `make_edits` would do, in words; the videos are probed for it."""
    listing = _listed(config)
    usable, failures = _probed(listing.inputs, config.num_workers)
    copies = len(usable) * len(config.chosen_strengths) * config.per_strength
    per_set = sum(min(facts["duration_seconds"], config.max_seconds) for _, facts in usable.values())
    pictures = per_set * min(config.max_fps, 15.0) * len(config.chosen_strengths) * config.per_strength
    seconds = pictures / _ROUGH_PICTURES_PER_SECOND / config.num_workers
    return (
        f"would make {copies} copies ({', '.join(config.chosen_strengths)}; {config.per_strength} each) of "
        f"{len(usable)} videos into {config.output}; {len(failures)} of {len(listing.inputs)} videos cannot be used. "
        f"Roughly {seconds:.0f} s with {config.num_workers} processes, "
        f"{pictures * _ROUGH_BYTES_PER_PICTURE / 1e6:.0f} MB of disk"
    )


def make_edits(config: EditsConfig) -> EditsOutcome:
    """Make the copies that are not there yet, then the tables.

    A video that turns out to be damaged while it is copied is rejected, and what would have shown it as a second video
    is planned anew without it: the result is the same as if it had been left out from the start.

    Raises:
        UsageError: there are no videos, or the folder holds copies that these settings do not make.
        ReelkinError: a file cannot be written.
    """
    listing = _listed(config)
    usable, failures = _probed(listing.inputs, config.num_workers)
    _drop_known_bad(config.output, usable, failures)
    made = 0
    while True:
        tasks = _tasks(config, usable)
        _refuse_strangers(config, [task.path.stem for task in tasks])
        todo = [task for task in tasks if not _is_done(task)]
        found = _make(todo, len(tasks), config.num_workers)
        made += len(todo) - sum(found.values())
        if not found:
            break
        for failure in found:
            if failure.video_id in usable:
                failures.append((usable.pop(failure.video_id)[0], failure))
        _remember_bad(config.output, failures)
    _remove_copies_of_rejected(config, [task.path.stem for task in tasks])
    _write_tables(config.output, tasks, failures)
    share = len(failures) / len(listing.inputs)
    code = ExitCode.REJECTS if share > config.max_reject_share else ExitCode.OK
    outcome = EditsOutcome(len(listing.inputs), len(failures), len(tasks), made, int(code))
    publish_json(config.output / "outcome.json", vars(outcome))
    return outcome


def _listed(config: EditsConfig) -> Listing:
    listing = list_videos(config.videos)
    output = config.output.resolve()
    listing.inputs = [one for one in listing.inputs if not Path(one.path).resolve().is_relative_to(output)]
    if config.limit is not None:
        listing.inputs = listing.inputs[: config.limit]
    if not listing.inputs:
        raise UsageError(f"videos: no video in {', '.join(map(str, config.videos))}; give a folder with videos")
    return listing


Usable = dict[str, tuple[VideoInput, dict[str, Any]]]
Failures = list[tuple[VideoInput, Failure]]


def _probed(inputs: Sequence[VideoInput], workers: int) -> tuple[Usable, Failures]:
    usable: Usable = {}
    failures: Failures = []
    good = [one for one in inputs if one.reason is None]
    for one in inputs:
        if one.reason is not None:
            failures.append((one, Failure(one.video_id, one.reason, one.detail)))
    with ProbePool(min(workers, max(1, len(good)))) as pool:
        for one, found in zip(good, pool.map((one.path, one.bytes) for one in good), strict=True):
            if isinstance(found, DataError):
                failures.append((one, Failure(one.video_id, found.reason, str(found))))
            else:
                usable[one.video_id] = (one, found)
    return usable, failures


def _tasks(config: EditsConfig, usable: Usable) -> list[Task]:
    tasks = []
    for plan in plan_copies(usable, config.chosen_strengths, config.per_strength, config.seed):
        source = usable[plan.source_id][0]
        other = usable[plan.other_source_id][0] if plan.other_source_id else None
        versions = [(one.bytes, one.modified_ns) for one in (source, other) if one]
        content = [plan.fingerprint(), versions, config.short_side, config.max_seconds, config.max_fps]
        tasks.append(
            Task(
                plan,
                source.path,
                other.path if other else "",
                config.output / f"{plan.copy_id}.mp4",
                config.output / RECORDS / f"{plan.copy_id}.json",
                hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
                config.short_side or None,
                config.max_seconds,
                config.max_fps,
            )
        )
    return tasks


def _is_done(task: Task) -> bool:
    record = read_record(task.record)
    if record is None or record.get("key") != task.key:
        return False
    return task.path.is_file() and task.path.stat().st_size == record.get("bytes")


def _make(todo: Sequence[Task], total: int, workers: int) -> dict[Failure, int]:
    """Make copies; the failures by video, with the number of copies that each has cost."""
    found: dict[str, Failure] = {}
    costs: dict[str, int] = {}
    with Progress(total, "copies", "making edited copies") as progress:
        progress.advance(total - len(todo))
        for _, failure in make_all(todo, min(workers, max(1, len(todo)))) if todo else ():
            if failure is not None:
                found.setdefault(failure.video_id, failure)
                costs[failure.video_id] = costs.get(failure.video_id, 0) + 1
            progress.advance(rejects=failure is not None)
    return {failure: costs[video_id] for video_id, failure in found.items()}


def _refuse_strangers(config: EditsConfig, copy_ids: Iterable[str]) -> None:
    """Copies that an earlier run with other settings left would be taken for part of this set."""
    strangers = sorted(_recorded(config.output) - set(copy_ids) - _of_rejected(config.output))
    if not strangers:
        return
    if not config.rebuild:
        raise UsageError(
            f"output: {config.output} holds {len(strangers)} copies that these settings do not make (such as "
            f"{strangers[0]}.mp4); choose another folder, or add --rebuild to have them removed"
        )
    _remove(config.output, strangers)


def _remove_copies_of_rejected(config: EditsConfig, copy_ids: Iterable[str]) -> None:
    _remove(config.output, sorted(_recorded(config.output) - set(copy_ids)))


def _recorded(output: Path) -> set[str]:
    return {path.stem for path in (output / RECORDS).glob("*__*.json")}


def _remove(output: Path, copy_ids: Iterable[str]) -> None:
    for copy_id in copy_ids:
        (output / f"{copy_id}.mp4").unlink(missing_ok=True)
        (output / RECORDS / f"{copy_id}.json").unlink(missing_ok=True)


def _bad_path(output: Path) -> Path:
    return output / RECORDS / "bad-videos.json"


def _read_bad(output: Path) -> dict[str, Any]:
    return read_record(_bad_path(output)) or {}


def _of_rejected(output: Path) -> set[str]:
    names = {safe_name(video_id) for video_id in _read_bad(output)}
    return {copy_id for copy_id in _recorded(output) if copy_id.rsplit("__", 1)[0] in names}


def _remember_bad(output: Path, failures: Failures) -> None:
    bad = {
        one.video_id: [one.bytes, one.modified_ns, failure.reason.value, failure.detail] for one, failure in failures
    }
    publish_text(_bad_path(output), json.dumps(bad) + "\n")


def _drop_known_bad(output: Path, usable: Usable, failures: Failures) -> None:
    for video_id, (size, modified_ns, reason, detail) in _read_bad(output).items():
        if video_id in usable:
            one = usable[video_id][0]
            if (one.bytes, one.modified_ns) == (size, modified_ns):
                failures.append((usable.pop(video_id)[0], Failure(video_id, Reason(reason), detail)))


def _write_tables(output: Path, tasks: Sequence[Task], failures: Failures) -> None:
    edits: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for task in tasks:
        record = read_record(task.record)
        if record is None:
            raise ReelkinError(f"the record {task.record} has gone; run the same command again")
        plan = task.plan
        shared = {
            "copy_id": plan.copy_id,
            "source_id": plan.source_id,
            "strength": plan.strength,
            "edits": plan.names,
            "seed": plan.seed,
            "other_source_id": plan.other_source_id,
            "fps": f"{record['fps']:.6g}",
            "width": record["width"],
            "height": record["height"],
        }
        edits += [{**shared, **_times(segment)} for segment in record["segments"]]
        names = {"copy_id": plan.copy_id, "other_source_id": plan.other_source_id}
        others += [{**names, **_times(segment)} for segment in record["other_segments"]]
    rejects = [
        {"source_id": one.video_id, "path": one.name, "reason": failure.reason.value, "detail": failure.detail}
        for one, failure in sorted(failures, key=lambda pair: (pair[0].video_id, pair[0].name))
    ]
    publish_csv(output / "rejects.csv", REJECTS_COLUMNS, _ordered(rejects, REJECTS_COLUMNS))
    publish_csv(output / "other_segments.csv", OTHER_COLUMNS, _ordered(others, OTHER_COLUMNS))
    publish_csv(output / "edits.csv", EDITS_COLUMNS, _ordered(edits, EDITS_COLUMNS))


def _times(segment: Sequence[float]) -> dict[str, str]:
    return {column: f"{value:.6f}" for column, value in zip(SEGMENT_COLUMNS, segment, strict=True)}


def _ordered(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[list[Any]]:
    return ([row.get(column, "") for column in columns] for row in rows)
