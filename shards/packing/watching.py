"""How far a build is, over all ranks: the others' shards count as soon as they stand in the output folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ...core.engine import Engine
from ...core.progress import Progress
from .plan import Plan
from .records import read_if_done, record_path


class Watched:
    """What this rank, and on rank 0 all ranks together, have done so far."""

    def __init__(self, output: Path, plan: Plan, engine: Engine, todo: set[int]) -> None:
        self._output, self._plan, self._engine = output, plan, engine
        self._todo = todo
        self._others = [n for n in range(len(plan)) if n % engine.size != engine.rank] if engine.is_main else []

    def progress(self) -> Progress:
        """Over all inputs of the plan; shown by rank 0."""
        plan, engine = self._plan, self._engine
        progress = Progress(
            plan.num_inputs, "videos", "building shards", engine.is_main, plan.bytes, more=self._done_by_others
        )
        for n in range(engine.rank, len(plan), engine.size):
            if n not in self._todo:
                progress.skip(plan.num_inputs_of(n), plan.bytes_of(n, n + 1))
        return progress

    def _done_by_others(self) -> tuple[int, int, Counter[str]]:
        """Videos, bytes and rejects by reason of shards that other ranks have published since the last call."""
        videos, size, reasons, waiting = 0, 0, Counter[str](), []
        for n in self._others:
            number = self._plan.number(n)
            record = None
            if record_path(self._output, number).exists():
                record = read_if_done(self._output, number, self._plan.hashes[n])
            if record is None:
                waiting.append(n)
                continue
            videos += self._plan.num_inputs_of(n)
            size += self._plan.bytes_of(n, n + 1)
            reasons.update(row["reason"] for row in record.videos if row["reason"])
        self._others = waiting
        return videos, size, reasons
