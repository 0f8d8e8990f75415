"""Building shards: every input is probed in a child process, copied into its shard, and ends as a row of the manifest.

A shard is written whole together with a record of its rows; a later run finds the record and skips the shard. When all
are there, rank 0 puts the rows together and publishes ``shards.json``, without which nobody reads the folder.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...core.config import as_dict
from ...core.engine import Engine, start
from ...core.engine.environment import read_launch
from ...core.errors import DataError, ExitCode, Reason, ReelkinError, UsageError
from ...core.files import publish_json, publish_table, read_json, remove_partials, sha256_file
from ...core.progress import Progress
from ..index import FORMAT, INDEX_NAME, VERSION, sealed
from ..manifest import OK, REJECTED, ClipRow, VideoRow
from ..sources.inputs import Listing, VideoInput
from ..sources.listing import list_videos
from ..video.isolation import ProbePool
from ..writer import MEMBER_LIMIT_BYTES, ShardWriter, writing_shard
from .config import BuildConfig
from .plan import Group, Plan

logger = logging.getLogger(__name__)

RECORDS = "records"
_RECORD_FORMAT = "reelkin-shard-record"
# Ranks meet at the end only, and their shares take unequally long; a rank that dies is noticed at once all the same.
_DEADLINE_SECONDS = 7 * 86400.0
_NAMED_REJECTS = 20  # per rank; the manifest names them all
# For the rough times of a dry run: one file of a few seconds on one core, and a plain disk.
_PROBE_SECONDS, _COPY_BYTES_PER_SECOND = 0.04, 100e6


@dataclass(frozen=True)
class Outcome:
    """What a build came to; the same on every rank.

    Attributes:
        num_videos, num_rejected, num_shards: counts over the whole corpus.
        bytes: of all shards.
        reasons: rejected inputs by reason.
        exit_code: OK, or REJECTS when more were rejected than the budget allows.
    """

    num_videos: int
    num_rejected: int
    num_shards: int
    bytes: int
    reasons: dict[str, int]
    exit_code: int

    def __str__(self) -> str:
        text = f"{self.num_videos - self.num_rejected} of {self.num_videos} videos in {self.num_shards} shards"
        text += f", {self.bytes / 1e6:.1f} MB"
        if self.num_rejected:
            parts = ", ".join(
                f"{reason} {n}" for reason, n in sorted(self.reasons.items(), key=lambda kv: (-kv[1], kv))
            )
            text += f"; {self.num_rejected} rejected: {parts}"
        return text


def build(config: BuildConfig) -> Outcome:
    """Build shards, alone or as one of several ranks.

    Raises:
        UsageError: nothing to build, or the output folder belongs to another build.
        ReelkinError: the disk is full, or children cannot be started.
    """
    with start(config.backend, deadline_seconds=_DEADLINE_SECONDS, device="cpu") as engine:
        plan = Plan.from_plain(engine.broadcast_object(_prepare(config) if engine.is_main else None, "plan"))
        _build_share(config, plan, engine)
        engine.barrier("all shards written")
        outcome = _merge(config, plan) if engine.is_main else None
        return Outcome(**engine.broadcast_object(outcome and asdict(outcome), "outcome"))


def describe(config: BuildConfig) -> str:
    """What a build would do: settings, counts, sizes, a rough time."""
    listing, plan = _plan(config)
    known = sum(entry.reason is not None for entry in listing.inputs)
    workers = _workers(config)
    seconds = plan.num_inputs * _PROBE_SECONDS / workers + plan.bytes / _COPY_BYTES_PER_SECOND
    lines = [f"{name}: {value}" for name, value in as_dict(config).items()]
    lines += [
        "",
        f"inputs: {plan.num_inputs} ({known} of them missing or badly named), {plan.bytes / 1e6:.1f} MB",
        f"ignored: {listing.ignored_in_words() or 'nothing'}",
        f"shards: {len(plan.groups)}",
        f"time: roughly {seconds:.0f} s with {workers} workers"
        + (" for a look at the first pictures; decoding everything takes far longer" if config.check == "full" else ""),
        f"memory: up to {workers} x {config.memory} while probing, usually under 0.2 GB each",
        f"disk: {plan.bytes / 1e6:.1f} MB needed, {_free_bytes(config.output) / 1e6:.1f} MB free",
    ]
    return "\n".join(lines)


def _plan(config: BuildConfig) -> tuple[Listing, Plan]:
    listing = list_videos(config.videos)
    if not listing.inputs:
        ignored = listing.ignored_in_words()
        raise UsageError(
            f"videos: no video was found in {', '.join(map(str, config.videos))}" + (f" ({ignored})" if ignored else "")
        )
    return listing, Plan.make([_bounded(entry) for entry in listing.inputs[: config.limit]], config.effective())


def _bounded(entry: VideoInput) -> VideoInput:
    if entry.reason is None and entry.bytes >= MEMBER_LIMIT_BYTES:
        text = f"{entry.bytes} bytes; a shard's member must be under {MEMBER_LIMIT_BYTES}"
        return replace(entry, reason=Reason.TOO_LARGE, detail=text)
    return entry


def _prepare(config: BuildConfig) -> dict[str, Any]:
    """On rank 0: list, plan, and make the folder ready."""
    listing, plan = _plan(config)
    if listing.ignored:
        logger.info("ignored %s", listing.ignored_in_words())
    config.output.mkdir(parents=True, exist_ok=True)
    plan.settle(config.output, config.rebuild)
    _tidy(config.output, plan)
    logger.info("%d inputs, %.1f MB, in %d shards", plan.num_inputs, plan.bytes / 1e6, len(plan.groups))
    return plan.to_plain()


def _tidy(output: Path, plan: Plan) -> None:
    """Remove what a killed run left half written, and shards beyond the plan of a rebuild."""
    remove_partials(output)
    remove_partials(output / RECORDS)
    wanted = {group.shard_name for group in plan.groups}
    for path in output.glob("clips-*.tar"):
        if path.name not in wanted:
            path.unlink()
            _record_path(output, path.name).unlink(missing_ok=True)


def _record_path(output: Path, shard_name: str) -> Path:
    return output / RECORDS / f"{shard_name.removesuffix('.tar')}.json"


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _workers(config: BuildConfig) -> int:
    return config.workers or max(1, len(os.sched_getaffinity(0)) // max(1, read_launch().local_size))


def _build_share(config: BuildConfig, plan: Plan, engine: Engine) -> None:
    """Write the shards of this rank that are not there yet."""
    share = plan.groups[engine.rank :: engine.size]
    todo = [group for group in share if not _is_done(config.output, group)]
    label = "building shards" if engine.size == 1 else f"building shards (rank 0 of {engine.size})"
    pool = ProbePool(
        _workers(config),
        check=config.check,
        limits=config.limits,
        timeout_seconds=config.timeout_seconds,
        memory_bytes=config.memory_bytes,
    )
    with pool, Progress(sum(len(group.inputs) for group in share), "videos", label, engine.is_main) as progress:
        progress.advance(sum(len(group.inputs) for group in share) - sum(len(group.inputs) for group in todo))
        probed = pool.map((i.path, i.bytes) for group in todo for i in group.inputs if i.reason is None)
        for group in todo:
            _build_shard(config.output, group, probed, progress)


def _is_done(output: Path, group: Group) -> bool:
    path = _record_path(output, group.shard_name)
    if not path.exists():
        return False
    try:
        record = read_json(path)
        shard = record["shard"]
        size = (output / group.shard_name).stat().st_size if shard else 0
        return (
            record["format"] == _RECORD_FORMAT
            and record["inputs_sha256"] == group.sha256
            and (shard is None or shard["bytes"] == size)
        )
    except (ReelkinError, OSError, KeyError, TypeError):
        return False


def _build_shard(output: Path, group: Group, probed: Iterator[dict[str, Any] | DataError], progress: Progress) -> None:
    videos: list[VideoRow] = []
    clips: list[ClipRow] = []
    path = output / group.shard_name
    _record_path(output, group.shard_name).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    with writing_shard(path) as writer:
        for entry in group.inputs:
            known = DataError(entry.reason, entry.detail) if entry.reason is not None else next(probed)
            try:
                if isinstance(known, DataError):
                    raise known
                clip = _add(writer, group, entry, known)
                clips.append(clip)
                videos.append(_accepted(entry, known, clip))
            except DataError as error:
                videos.append(_rejected(entry, error))
            rejected = videos[-1].status == REJECTED
            progress.advance(rejects=int(rejected))
            if rejected and progress.rejects <= _NAMED_REJECTS:
                logger.info("rejected %s: %s (%s)", entry.video_id, videos[-1].reason, videos[-1].detail)
    shard = None
    if clips:
        shard = {
            "name": group.shard_name,
            "bytes": writer.bytes,
            "sha256": writer.sha256,
            "num_clips": writer.num_clips,
        }
    record = {
        "format": _RECORD_FORMAT,
        "version": VERSION,
        "inputs_sha256": group.sha256,
        "shard": shard,
        "videos": [asdict(row) for row in videos],
        "clips": [asdict(row) for row in clips],
    }
    publish_json(_record_path(output, group.shard_name), record)


def _add(writer: ShardWriter, group: Group, entry: VideoInput, facts: dict[str, Any]) -> ClipRow:
    key = f"{group.number:06d}_{writer.num_clips:06d}"
    content = {"video_id": entry.video_id, "path": entry.name, "start_seconds": 0.0, **facts}
    member = writer.add(key, facts["container"], Path(entry.path), content)
    return ClipRow(
        video_id=entry.video_id,
        shard=group.shard_name,
        key=key,
        container=facts["container"],
        start_seconds=0.0,
        duration_seconds=facts["duration_seconds"],
        num_frames=facts["num_frames"],
        bytes=member.bytes,
        sha256=member.sha256,
        offset=member.offset,
    )


def _accepted(entry: VideoInput, facts: dict[str, Any], clip: ClipRow) -> VideoRow:
    kept = {name: value for name, value in facts.items() if name != "container"}
    return VideoRow(entry.video_id, OK, path=entry.name, num_clips=1, bytes=clip.bytes, sha256=clip.sha256, **kept)


def _rejected(entry: VideoInput, error: DataError) -> VideoRow:
    return VideoRow(
        entry.video_id, REJECTED, error.reason.value, str(error), path=entry.name, bytes=max(0, entry.bytes)
    )


def _merge(config: BuildConfig, plan: Plan) -> Outcome:
    """Put the rows of all shards together and publish ``shards.json``, last."""
    videos: list[pa.Table] = []
    clips: list[pa.Table] = []
    shards: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    for group in plan.groups:
        if not _is_done(config.output, group):
            raise ReelkinError(
                f"{group.shard_name} was not written to {config.output}; if ranks run on several machines, the output "
                "must be a folder that they share. Run the same command again"
            )
        record = read_json(_record_path(config.output, group.shard_name))
        videos.append(pa.Table.from_pylist(record["videos"], schema=VideoRow.SCHEMA))
        clips.append(pa.Table.from_pylist(record["clips"], schema=ClipRow.SCHEMA))
        reasons.update(row["reason"] for row in record["videos"] if row["status"] == REJECTED)
        if record["shard"]:
            shards.append(record["shard"])
    tables = {"manifest.parquet": pa.concat_tables(videos), "clips.parquet": pa.concat_tables(clips)}
    for name, table in tables.items():
        publish_table(config.output / name, table)
    index = {
        "format": FORMAT,
        "version": VERSION,
        "shards": shards,
        "tables": {name: sha256_file(config.output / name) for name in tables},
        "config": plan.config,
    }
    publish_json(config.output / INDEX_NAME, sealed(index))
    rejected, total = sum(reasons.values()), plan.num_inputs
    code = ExitCode.REJECTS if rejected > config.max_reject_share * total else ExitCode.OK
    size = sum(shard["bytes"] for shard in shards)
    outcome = Outcome(total, rejected, len(shards), size, dict(reasons), int(code))
    publish_json(config.output / "outcome.json", asdict(outcome))
    return outcome
