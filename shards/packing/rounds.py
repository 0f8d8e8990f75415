"""Deciding what a command has to do: which inputs, in which shards, and whether the folder is the right one for it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...core.errors import Reason, ReelkinError, UsageError
from ...core.files import publish_table, read_json, remove_partials
from ..index import INDEX_NAME, MANIFEST_NAME, shard_number
from ..manifest import OK, REJECTED
from ..sources.inputs import Listing, VideoInput
from ..sources.listing import list_videos
from .config import BuildConfig
from .merging import ANNOTATIONS, merge
from .plan import Plan, shard_name
from .records import RECORDS, read_if_done, read_record, write_record
from .removal import remove
from .state import Round, RoundKind, State, difference, read_removed

logger = logging.getLogger(__name__)

INPUTS_NAME = "inputs.parquet"
"""The inputs of an unfinished round, for the ranks; with the paths as they are on this machine."""


@dataclass(frozen=True)
class Prepared:
    """What is to be done, or no plan when there is nothing to do but to put the tables together; and annotations."""

    plan: Plan | None
    annotations: dict[str, pa.Table]


def prepare(config: BuildConfig) -> Prepared:
    """List the inputs, plan, and make the output folder, which is there, ready.

    Raises:
        UsageError: there is no input, or the folder belongs to another build.
        ReelkinError: the folder cannot be written.
    """
    output = config.output
    state = State.read(output)
    if config.retry or config.add:
        _catch_up(output, state)
    listing = list_inputs(config)
    if listing.ignored:
        logger.info("ignored %s", listing.ignored_in_words())
    plan, step = make_plan(config, listing, state)
    if not plan.num_inputs and step.kind != "build":
        logger.info("nothing to %s", step.kind)
        if state.pending:  # its inputs are gone
            state.rounds.pop()
            state.publish(output)
            _tidy(output, state)
        return Prepared(None, listing.tables)
    removed = read_removed(output)
    if removed and _lacks_tables_only(output, state):
        remove(output, sorted(removed), pass_over_lost=True)  # it was stopped half-way
    _settle(config, state, step)
    _tidy(output, state)
    _mark_lost(output, state)
    publish_table(output / INPUTS_NAME, plan.inputs)
    logger.info("%d inputs, %.1f MB, in %d shards", plan.num_inputs, plan.bytes / 1e6, len(plan))
    return Prepared(plan, listing.tables)


def _catch_up(output: Path, state: State) -> None:
    """Finish the complete rounds where a run was stopped before: a retry or an addition goes by their tables."""
    complete = sum(step.complete for step in state.rounds)
    try:
        if not complete or read_json(output / INDEX_NAME)["rounds"] == complete:
            return
    except (ReelkinError, KeyError, TypeError):
        pass
    removed = read_removed(output)
    if removed and not state.pending:
        remove(output, sorted(removed), pass_over_lost=True)
    else:
        merge(output, state, 1.0)


def _lacks_tables_only(output: Path, state: State) -> bool:
    """Whether a run was stopped after its last shard and before its tables."""
    return bool(state.rounds) and not state.pending and not (output / INDEX_NAME).exists()


def list_inputs(config: BuildConfig) -> Listing:
    """What the command was given. Raises UsageError when that is nothing."""
    listing = list_videos(config.videos, config.layout, config.source_options)
    if not listing.inputs:
        ignored = listing.ignored_in_words()
        raise UsageError(
            f"videos: no video was found in {', '.join(map(str, config.videos))}" + (f" ({ignored})" if ignored else "")
        )
    return listing


def make_plan(config: BuildConfig, listing: Listing, state: State) -> tuple[Plan, Round]:
    """What this command has to do, whether or not some of it is done."""
    kind: RoundKind = "retry" if config.retry else "build"
    if config.add and state.rounds and state.rounds[0].complete:
        kind = "add"  # in a new folder everything is new: then it is a build
    inputs, first_shard = listing.inputs, 0
    if kind != "build":
        ids, rejects = _known_rows(config)
        if kind == "retry":
            inputs = [entry for entry in inputs if entry.video_id in rejects]
        else:
            inputs = list(_under_new_ids(config, list(_beyond(inputs, ids)), {entry.video_id for entry in inputs}))
        first_shard = state.next_shard - (state.pending.num_shards if state.pending else 0)
    plan = Plan.make(inputs[: _whole_ids(inputs, config.limit)], config.effective(), first_shard)
    return plan, Round.of(kind, config.retry_reasons if kind == "retry" else (), plan)


def _beyond(inputs: Sequence[VideoInput], rows: Counter[str]) -> Iterator[VideoInput]:
    """Inputs for which their id has no row yet: of new ids, and duplicates that were given since."""
    left = Counter(rows)
    for entry in inputs:
        if left[entry.video_id] > 0:
            left[entry.video_id] -= 1
        else:
            yield entry


def _under_new_ids(config: BuildConfig, inputs: Sequence[VideoInput], listed: set[str]) -> Iterator[VideoInput]:
    """``inputs`` without files that are packed under the id that they had before another file took or freed it.

    ``a.mp4`` has the id ``a`` as long as there is no ``a.mkv``.
    """
    columns = ["video_id", "path", "bytes", "status"]
    rows = pq.read_table(config.output / MANIFEST_NAME, columns=columns, filters=[("status", "=", OK)])
    packed = {
        (video_id, path, size)
        for video_id, path, size, _ in zip(*(column.to_pylist() for column in rows.columns), strict=True)
        if video_id not in listed
    }
    passed = 0
    for entry in inputs:
        stem = os.path.splitext(entry.name)[0]
        before = {entry.name: stem, stem: entry.name}.get(entry.video_id)
        if (before, entry.name, entry.bytes) in packed:
            passed += 1
        else:
            yield entry
    if passed:
        logger.info("%d files are there under the ids that they had before, and stay under them", passed)


def _whole_ids(inputs: Sequence[VideoInput], limit: int | None) -> int | None:
    """``limit``, or a little more: what bears the same id stays together, as a retry takes it up together."""
    while limit is not None and limit < len(inputs) and inputs[limit].video_id == inputs[limit - 1].video_id:
        limit += 1
    return limit


def _known_rows(config: BuildConfig) -> tuple[Counter[str], set[str]]:
    """Rows of each id, and the ids that a retry takes up: rejected for its reasons and usable under no other row."""
    if not (config.output / INDEX_NAME).exists():
        raise UsageError(
            f"output: {config.output} holds no finished shards to {'add to' if config.add else 'retry'}; build them "
            "first, without this flag"
        )
    table = pq.read_table(config.output / MANIFEST_NAME, columns=["video_id", "reason"])
    ids, reasons = (table[name].to_pylist() for name in ("video_id", "reason"))
    usable = {video_id for video_id, reason in zip(ids, reasons, strict=True) if not reason}
    wanted = config.retry_reasons
    rejects = {video_id for video_id, reason in zip(ids, reasons, strict=True) if reason in wanted} - usable
    return Counter(ids), rejects


def _settle(config: BuildConfig, state: State, step: Round) -> None:
    """Make ``step`` the last round of the folder, or find that it is the one that is there.

    Raises:
        UsageError: the folder belongs to another build.
    """
    output, last = config.output, state.pending
    if step.kind == "build":
        if state.rounds and state.rounds[0].same_work(step):
            if last is not None and last.kind != "build":
                flag = "--add" if last.kind == "add" else f"--retry {' '.join(last.reasons)}"
                raise UsageError(f"output: {output} is in the middle of a {last.kind}; let it go on with {flag}")
            return
        # A build writes its plan before its first shard: without one, shards are somebody else's.
        foreign = not state.rounds and ((output / INDEX_NAME).exists() or any(output.glob("clips-*.tar")))
        # A first build that was stopped is not published: --add lets it go on with what has come since.
        growing = config.add and last is not None and last.config == step.config
        if (state.rounds or foreign) and not config.rebuild and not growing:
            how = difference(state.rounds[0], step) if state.rounds else f"no {RECORDS}"
            raise UsageError(
                f"output: {output} was built with {how}. Choose another folder, take new videos in with --add, or add "
                "--rebuild to replace what has changed there"
            )
        (output / INDEX_NAME).unlink(missing_ok=True)  # from here on the folder is unfinished
        state.rounds = [step]
    else:
        # What was pending is not published: where inputs changed since, its shards are simply written again.
        state.rounds = [done for done in state.rounds if done.complete] + [step]
    state.publish(output)


def _tidy(output: Path, state: State) -> None:
    """Remove what a killed run left half written, and shards beyond the plan of a rebuild."""
    for folder in (output, output / RECORDS, output / ANNOTATIONS):
        remove_partials(folder)
    for path in output.glob("clips-*.tar"):
        number = shard_number(path.name)
        if number is not None and number >= state.next_shard:
            path.unlink()
    for path in (output / RECORDS).glob("*.json"):
        if path.stem.isdecimal() and int(path.stem) >= state.next_shard:
            path.unlink()


def taken_up_later(output: Path, plan: Plan) -> frozenset[str]:
    """Ids that a later round took up: their clips are there, also when a shard of ``plan`` has to be written again."""
    end = plan.first_shard + len(plan)
    steps = [step for step in State.read(output).rounds if step.kind == "retry" and step.first_shard >= end]
    numbers = [number for step in steps for number in step.shards]
    return frozenset(row["video_id"] for number in numbers for row in read_record(output, number).videos)


def _mark_lost(output: Path, state: State) -> None:
    """Turn what a lost shard of a later round held into rejects: its inputs are not this command's to build again."""
    for step in state.rounds[1:]:
        for number in step.shards if step.complete else ():
            record = read_record(output, number)
            if read_if_done(output, number, record.inputs_sha256) is not None:
                continue
            lost = [row for row in record.videos if row["status"] == OK]
            text = f"{shard_name(number)}, which held it, is lost; take it up again with --retry {Reason.UNREADABLE}"
            for row in lost:
                row.update(status=REJECTED, reason=Reason.UNREADABLE.value, detail=text, num_clips=0, sha256="")
            logger.warning(
                "%s is lost or cut; --retry %s packs its %d videos again",
                shard_name(number),
                Reason.UNREADABLE,
                len(lost),
            )
            record.shard, record.clips, record.becoming = None, [], None
            (output / INDEX_NAME).unlink(missing_ok=True)
            write_record(output, number, record)
            (output / shard_name(number)).unlink(missing_ok=True)
