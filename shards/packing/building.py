"""Building shards: a round over the inputs, spread over ranks and threads, then the tables.

A shard is written whole together with a record of its rows; a later run finds the record and skips the shard. When all
are there, rank 0 puts the rows together and publishes ``shards.json``, without which nobody reads the folder.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa

from ...core.alone import alone_in
from ...core.config import as_dict
from ...core.engine import Engine, start
from ...core.engine.environment import read_launch
from ...core.errors import Reason, ReelkinError
from ...core.files import read_table, temporary_beside
from ...core.progress import in_words
from ..video.isolation import ProbePool
from ..writer import MEMBER_LIMIT_BYTES
from .config import BuildConfig
from .merging import Outcome, merge
from .plan import Group, Plan
from .records import read_if_done, read_record, record_path
from .rounds import INPUTS_NAME, Prepared, list_inputs, make_plan, prepare, taken_up_later
from .shard_work import ShardBuilder, run_in_threads
from .state import Round, State, read_removed, write_removed
from .watching import Watched

logger = logging.getLogger(__name__)

# Ranks meet at the end only, and their shares take unequally long; a rank that dies is noticed at once all the same.
_DEADLINE_SECONDS = 7 * 86400.0
# For the rough times of a dry run: one file of a few seconds on one core, and a plain disk.
_PROBE_SECONDS, _COPY_BYTES_PER_SECOND = 0.02, 200e6


def build(config: BuildConfig, engine: Engine | None = None) -> Outcome:
    """Build shards, alone or as one of several ranks.

    Args:
        engine: of a run of which this is a part; None starts one, which ends with the build.

    Raises:
        UsageError: nothing to build, or the output folder belongs to another build.
        ReelkinError: the disk is full, children cannot be started, or another command is at work in the output folder.
    """
    if engine is None:
        with start(config.backend, deadline_seconds=_DEADLINE_SECONDS, device="cpu") as own:
            return build(config, own)
    with _held(config, engine):
        prepared = prepare(config) if engine.is_main else Prepared(None, {})
        plain = engine.broadcast_object(prepared.plan and prepared.plan.to_plain(), "plan")
        if plain is not None:
            plan = Plan.from_plain(read_table(config.output / INPUTS_NAME), plain)
            _build_share(config, plan, engine)
        engine.barrier("all shards written")
        outcome = _finish(config, prepared.annotations) if engine.is_main else None
        return Outcome(**engine.broadcast_object(outcome and vars(outcome), "outcome"))


def _held(config: BuildConfig, engine: Engine) -> AbstractContextManager[None]:
    return alone_in(config.output) if engine.is_main else nullcontext()


def describe(config: BuildConfig) -> str:
    """What a build would do: settings, counts, sizes, a rough time."""
    listing = list_inputs(config)
    state = State.read(config.output)
    plan, _ = make_plan(config, listing, state)
    known = sum(1 for reason in plan.inputs["reason"].to_pylist() if reason)
    workers = _workers(config)
    seconds = plan.num_inputs * _PROBE_SECONDS / workers + plan.bytes / _COPY_BYTES_PER_SECOND
    lines = [f"{name}: {value}" for name, value in as_dict(config).items()]
    lines += [
        "",
        f"inputs: {plan.num_inputs} ({known} of them missing or badly named), {plan.bytes / 1e6:.1f} MB",
        f"ignored: {listing.ignored_in_words() or 'nothing'}",
        f"shards: {len(plan)}",
        f"time: roughly {in_words(seconds)} with {workers} workers"
        + (" for a look at the first pictures; decoding everything takes far longer" if config.check == "full" else ""),
        f"memory: up to {workers} x {config.memory} while probing, usually under 0.2 GB each",
        f"disk: {plan.bytes / 1e6:.1f} MB needed, {_free_bytes(config.output) / 1e6:.1f} MB free",
    ]
    return "\n".join(lines)


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _workers(config: BuildConfig) -> int:
    return config.workers or max(1, len(os.sched_getaffinity(0)) // max(1, read_launch().local_size))


def _build_share(config: BuildConfig, plan: Plan, engine: Engine) -> None:
    """Write the shards of this rank that are not there yet."""
    share = range(engine.rank, len(plan), engine.size)
    todo = [n for n in share if read_if_done(config.output, plan.number(n), plan.hashes[n]) is None]
    workers = _workers(config)
    threads = max(1, min(workers, len(todo)))
    watched = Watched(config.output, plan, engine, set(todo))
    pool = ProbePool(
        workers,
        check=config.check,
        limits=config.limits,
        timeout_seconds=config.timeout_seconds,
        memory_bytes=config.memory_bytes,
        write_bytes=MEMBER_LIMIT_BYTES,  # no clip may be larger
    )
    with _scratch(config.output) as scratch, pool, watched.progress() as progress:
        brought_back = Reason.REMOVED.value in config.retry_reasons
        removed = frozenset[str]() if brought_back else read_removed(config.output)
        later = taken_up_later(config.output, plan) if todo else frozenset[str]()
        builder = ShardBuilder(config, pool, 1 + -(-workers // threads), removed, later, scratch, progress)
        groups: Iterator[Group] = (plan.group(n) for n in todo)
        run_in_threads(builder, groups, threads)


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder for clip files that have to be made; a killed run's is removed by the next one."""
    folder = temporary_beside(output / "scratch")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ReelkinError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(config: BuildConfig, annotations: dict[str, pa.Table]) -> Outcome:
    """On rank 0, when all ranks are done: check that every shard is there, and publish the tables."""
    output, state = config.output, State.read(config.output)
    if state.pending:
        missing = _missing_accounts(output, state.pending)
        if missing:
            raise ReelkinError(
                f"{missing[0]} was not written to {output}; if ranks run on several machines, the output must be a "
                "folder that they share. Run the same command again"
            )
        if Reason.REMOVED.value in state.pending.reasons:
            write_removed(output, read_removed(output) - _ids_of(output, state.pending))
        state.rounds[-1] = Round(**{**vars(state.rounds[-1]), "complete": True})
        state.publish(output)
    later = bool(config.retry or config.add)  # such a command may be without the annotations of the build
    outcome = merge(output, state, config.max_reject_share, None if later and not annotations else annotations)
    (output / INPUTS_NAME).unlink(missing_ok=True)
    return outcome


def _ids_of(output: Path, step: Round) -> set[str]:
    return {row["video_id"] for number in step.shards for row in read_record(output, number).videos}


def _missing_accounts(output: Path, step: Round) -> list[str]:
    return [f"the account of shard {number}" for number in step.shards if not record_path(output, number).exists()]
