"""The training loop, the same for every recipe: steps, the log, checkpoints, stopping and resuming.

A recipe brings a `Task` (model, batches, loss); the loop knows nothing of videos. Its state is the model, the
optimizer, the task's own state, the best validation, the log since its last line, and each rank's generators.
"""

from __future__ import annotations

import copy
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core.engine import Engine
from ...core.engine.rng import gather_rng_states, seed_rng, set_rng_state
from ...core.errors import ExitCode, ReelkinError, UsageError
from ...core.progress import Progress
from .best import Best
from .optimisation import build_optimizer, learning_rate
from .restoring import FORMAT, restored
from .run_folder import RunFolder
from .settings import LoopConfig
from .stopping import stop_signals
from .task import StepLoss, Task
from .telemetry import Telemetry

log = logging.getLogger("reelkin.train")

BEST_BY = "map"
"""The figure of a validation by which the best one is known."""
HEADLINES = {
    "positive_first": "positive first {:.0%}",
    "positive_similarity": "positives {:.2f}",
    "negative_similarity": "negatives {:.2f}",
    "mined_similarity": "mined {:.2f}",
}
"""What of a task's report stands in the line of progress."""
SAVE_SECONDS = 1800.0
"""The other ranks wait this much longer than the deadline while rank 0 writes."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    exit_code: ExitCode
    reason: str
    steps: int
    weights_sha256: str


class Trainer:
    """Runs a task for a number of steps.

    Args:
        engine: ranks.
        task: the recipe's parts.
        config: of the loop.
        steps: updates in all.
        identity: what the run depends on: field by field the configuration, hashes of features and labels; JSON-able.
            A checkpoint with another identity is refused.
        epoch_of: epochs that so many updates make, for the schedule ``cosine-epochs``.

    Attributes:
        done: updates made so far.
        best: the best validation so far.
        before_first_step: called on rank 0 once the folder is known to be this run's.
        save_best: called on rank 0 with the model of a new best validation and facts about it; writes best/.
        conclude: called on rank 0 at the end, while the folder is still locked; writes model/ and the outcome.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        config: LoopConfig,
        steps: int,
        identity: Mapping[str, Any],
        epoch_of: Callable[[int], float] | None = None,
    ) -> None:
        if config.batch_size < engine.size:
            raise UsageError(
                f"--batch-size {config.batch_size} leaves some of {engine.size} ranks without an anchor; raise it"
            )
        self.engine, self.task, self.config, self.steps = engine, task, config, steps
        self.epoch_of = epoch_of
        learning_rate(config, config.warmup_steps, steps, epoch_of)  # a schedule that cannot be is refused now
        self.identity = dict(identity)
        self.folder = RunFolder(config.output)
        self.optimizer = engine.wrap_optimizer(
            build_optimizer(task.model, config),
            task.model.named_parameters(),
            compression=config.compression,
            reduction=config.reduction,
        )
        self.done = 0
        self.best = Best()
        self.before_first_step: Callable[[], None] = lambda: None
        self.save_best: Callable[[nn.Module, dict[str, Any]], None] = lambda model, facts: None
        self.conclude: Callable[[Outcome], None] = lambda outcome: None
        self._stop_requested = False
        self._sums: dict[str, float] = {}
        self._validation_owed = False
        self._waited = 0.0
        self._since = time.monotonic()

    def request_stop(self) -> None:
        """Ask for an orderly stop after the step in progress; may be called from a signal handler, on any rank."""
        self._stop_requested = True

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do: all steps are made, or validation has not improved for long enough."""
        return self.done >= self.steps or self.best.exhausted(self.config.patience)

    def train(self) -> Outcome:
        """Train to the end, or until asked to stop.

        Raises:
            ReelkinError: a loss or gradient is not finite (before it reaches the weights), a checkpoint cannot be
                written, or ranks have come apart.
            UsageError: the folder's checkpoint belongs to another run, or another run is at work in the folder.
        """
        self.engine.on_main(self.folder.lock, "the run folder's lock")
        try:
            self._restore()
            self.engine.broadcast_state(self.task.model, self.optimizer)
            self.engine.on_main(self.before_first_step, "the run's beginning")
            self.task.model.train()
            with stop_signals(self.request_stop), self._telemetry() as self._sinks, self._progress() as progress:
                self._steps(progress)
            digest = self.engine.assert_same(self.task.model, "the trained weights")
            code = ExitCode.OK if self.finished else ExitCode.STOPPED
            outcome = Outcome(code, self._reason(), self.done, digest)
            self.engine.on_main(lambda: self.conclude(outcome), "the outcome")
        finally:
            self.folder.unlock()
        return outcome

    def _reason(self) -> str:
        if self.done >= self.steps:
            return "finished"
        if self.finished:
            return f"finished early: no better validation in {self.best.waiting} since step {self.best.step}"
        if self._stop_after_reached(self.done):
            after = f"stopped by --stop-after {self.config.stop_after}"
            return f"{after}; the same command without it, or with a larger one, goes on"
        return "stopped on request; the same command goes on from here"

    def _stop_after_reached(self, done: int) -> bool:
        return self.config.stop_after is not None and done >= self.config.stop_after

    def _steps(self, progress: Progress) -> None:
        if self._validation_owed:
            self._validation_owed = False
            self._write(self._validate(), save=True)
        stopped = self.finished or self._stop_after_reached(self.done)
        self._since = time.monotonic()
        batches = self.task.batches(range(self.done, self.steps))
        try:
            while not stopped and self.done < self.steps:
                asked = time.monotonic()
                batch = next(batches)
                self._waited = time.monotonic() - asked
                note, stopped = self._step(batch)
                progress.advance(note=note)
        finally:
            getattr(batches, "close", lambda: None)()

    def _progress(self) -> Progress:
        progress = Progress(self.steps, "steps", "training", enabled=self.engine.is_main)
        progress.skip(self.done)
        return progress

    # -- a step

    def _step(self, batch: Any) -> tuple[str, bool]:
        """One update; returns a note for the progress line and whether to stop."""
        rate = learning_rate(self.config, self.done, self.steps, self.epoch_of)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        parts, own = self.backward(batch)
        broken = not (math.isfinite(own["loss_sum"]) and math.isfinite(self._gradient_norm()))
        asked = self._stop_requested or self._stop_after_reached(self.done + 1)
        waits = {"waited": self._waited, "stop": float(asked), "broken": float(broken)}
        sums = self._over_ranks({**own, **waits})
        if sums["broken"]:
            what = "gradient" if math.isfinite(sums["loss_sum"]) else "loss"
            self._stop_before_update(what, parts if broken else [])
        self.engine.synchronize(self.optimizer)
        limit = self.config.clip_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.task.model.parameters(), limit))
        if not math.isfinite(norm):
            self._stop_before_update("gradient over all ranks", parts)
        self.optimizer.step()
        self.task.updated()
        self.done += 1
        now = time.monotonic()
        for name, value in {**sums, "grad_norm_sum": norm, "steps": 1.0, "seconds": now - self._since}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._since = now
        note = self._note() if self.engine.is_main else ""
        stop = sums["stop"] > 0 and self.done < self.steps
        self._after_step(rate, stop)
        return note, stop or self.finished

    def backward(self, batch: Any) -> tuple[list[StepLoss], dict[str, float]]:
        """Gradients of this rank's anchors, and their sums for the log."""
        sums: dict[str, float] = {}
        parts = []
        for part in self.task.losses(batch, self.config.accumulation):
            total = part.per_anchor.sum()
            # Ranks average their gradients; scaled like this, that is the gradient of the mean over the global batch.
            (total * (self.engine.size / self.config.batch_size)).backward()
            found = {"loss_sum": float(total.detach()), "anchors": float(len(part.per_anchor)), **part.sums}
            sums |= {name: sums.get(name, 0.0) + value for name, value in found.items()}
            parts.append(part)
        return parts, sums

    def _gradient_norm(self) -> float:
        """Of this rank's gradient, before ranks are combined: it tells whose videos are to blame."""
        gradients = [p.grad for p in self.task.model.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def _over_ranks(self, sums: Mapping[str, float]) -> dict[str, float]:
        names = sorted(sums)
        local = torch.tensor([sums[name] for name in names], dtype=torch.float64)
        return dict(zip(names, self.engine.all_reduce(local, "step sums", op="sum").tolist(), strict=True))

    def _stop_before_update(self, what: str, parts: list[StepLoss]) -> None:
        """Raise on every rank; ``parts`` are this rank's that may be to blame."""
        own = list(dict.fromkeys(video_id for part in parts for video_id in part.blame()))
        blamed = self.engine.all_gather_object(own, "blame")
        videos = [f"{video_id} (rank {rank})" for rank, ids in enumerate(blamed) for video_id in ids]
        named = ", ".join(videos[:20]) + (f" and {len(videos) - 20} more" if len(videos) > 20 else "")
        raise ReelkinError(
            f"the {what} of step {self.done + 1} is not finite, so the weights were left as after step {self.done}. "
            f"Videos concerned: {named}. Look at their features, or lower --lr (now {self.config.lr})"
        )

    # -- what follows a step

    def _after_step(self, rate: float, stop: bool) -> None:
        """Validate, log and save where it is due. What rank 0 fails to write ends all ranks."""
        due = self.done == self.steps or self.done % self.config.validate_every == 0
        # When stopping it waits for the next start: a launcher that was told to end may give its workers only seconds.
        self._validation_owed = due and stop
        validation = self._validate() if due and not stop else []
        rows = [self._row(rate)] if self.finished or self.done % self.config.log_every == 0 else []
        save = stop or self.finished or self.done % self.config.checkpoint_every == 0
        if rows or validation or save:
            self._write(rows + validation, save)

    def _validate(self) -> list[dict[str, Any]]:
        """Measure, and remember the best; returns the row for the log, if there are held-out videos."""
        # All ranks decide by the same figures, whatever their processors make of them.
        found = self.engine.broadcast_object(self.task.validate(), "validation")
        if found is None:
            return []
        better = self.best.see(found[BEST_BY], self.done, self.task.model)
        if self.engine.is_main:
            text = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            log.info("step %d: %s%s", self.done, text, " (best so far)" if better else "")
        return [{"step": self.done, "validation": found}]

    def _write(self, rows: list[dict[str, Any]], save: bool) -> None:
        """What a step leaves on the disk, by rank 0."""
        random_states = gather_rng_states(self.engine) if save else []

        def write() -> None:
            for row in rows:
                self.folder.log_metrics(row)
                self._sinks.write(row)
            if self.best.step == self.done:
                self._write_best()
            if save:
                about = {"format": FORMAT, "ranks": self.engine.size, "epoch": self._epoch()}
                meta = {**self.identity, "run": about}
                self.folder.save_checkpoint(self.done, self.state(random_states), meta, self.config.keep_checkpoints)

        with self.engine.extend_deadline(SAVE_SECONDS) if save else nullcontext():
            self.engine.on_main(write, "what a step leaves")

    def _row(self, rate: float) -> dict[str, Any]:
        """The next line of metrics.jsonl: means over the steps since the last one."""
        sums = self._sums
        self._sums = {}
        seconds = max(sums["seconds"], 1e-9)
        row = {"step": self.done, "loss": sums["loss_sum"] / sums["anchors"], "lr": rate}
        row |= self.task.report(sums)
        return row | {
            "grad_norm": sums["grad_norm_sum"] / sums["steps"],
            "seconds": round(seconds, 3),
            "samples_per_second": round(sums["anchors"] / seconds, 1),
            "waiting_for_data": round(sums["waited"] / self.engine.size / seconds, 4),
        }

    def _note(self) -> str:
        """What a person wants to see, over the steps since the last line of metrics.jsonl."""
        sums = self._sums
        seconds = max(sums["seconds"], 1e-9)
        report = self.task.report(sums)
        shown = [f"loss {sums['loss_sum'] / sums['anchors']:.4f}"]
        shown += [text.format(report[name]) for name, text in HEADLINES.items() if name in report]
        shown.append(f"{sums['anchors'] / seconds:.0f} samples/s")
        return ", ".join([*shown, f"waiting for data {sums['waited'] / self.engine.size / seconds:.0%}"])

    def _epoch(self) -> float | None:
        return None if self.epoch_of is None else self.epoch_of(self.done)

    def _telemetry(self) -> Telemetry:
        """Open on rank 0 where metrics go; what hinders it ends all ranks."""
        silent = opened = Telemetry(self.folder.path, self.config.log_to, (), enabled=False)

        def begin() -> None:
            nonlocal opened
            rows = self.folder.metrics() if self.config.log_to else []
            opened = Telemetry(self.folder.path, self.config.log_to, rows, enabled=True)

        self.engine.on_main(begin, "where metrics go")
        return opened if self.engine.is_main else silent

    def _write_best(self) -> None:
        """Make best/ what it is to be; without a validation so far, nothing."""
        if not self.best.weights:
            shutil.rmtree(self.folder.best, ignore_errors=True)
            return
        model = copy.deepcopy(self.task.model)
        model.load_state_dict(self.best.weights)
        self.save_best(model, {"best by": f"validation {BEST_BY}", BEST_BY: self.best.value, "step": self.best.step})

    # -- resuming

    def state(self, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        """Content of a checkpoint; ``random_states`` are the ranks' generators."""
        return {
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "task": self.task.state_dict(),
            "best": self.best.state_dict(),
            "log": dict(self._sums),
            "validation owed": self._validation_owed,
            "random": random_states,
        }

    def _restore(self) -> None:
        step, state = restored(self.engine, self.folder, self.config, self.identity)
        seed_rng(self.config.seed, self.engine.rank)
        if state:
            self._take_over(step, state)

        def tidy() -> None:
            self.folder.truncate_metrics(step, validated=not self._validation_owed)
            self._write_best()  # best/ may be missing, or of steps that were made after the checkpoint

        self.engine.on_main(tidy, "the run folder as of the checkpoint")

    def _take_over(self, step: int, state: Mapping[str, Any]) -> None:
        try:
            self.task.model.load_state_dict(state["model"])
            # The checkpoint's moments under this configuration's settings, which --allow-changes lets differ.
            settings = [
                {key: each for key, each in group.items() if key != "params"} for group in self.optimizer.param_groups
            ]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, own in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(own)
            self.task.load_state_dict(state["task"])
            self.best.load_state_dict(state.get("best", Best().state_dict()))
            # At another number of ranks there is nobody to give a rank's state to; seeded anew, they go on.
            if len(state["random"]) == self.engine.size:
                set_rng_state(state["random"][self.engine.rank], self.engine.device)
        except (RuntimeError, ValueError, KeyError) as error:
            why = " ".join(str(error).split())[:300]
            raise ReelkinError(
                f"the checkpoint of step {step} does not fit this run: {why}. What shapes the model or its optimizer "
                "cannot change in mid-run; give another --output"
            ) from error
        self.done, self._sums, self._validation_owed = step, dict(state["log"]), bool(state["validation owed"])
        if self.engine.is_main:
            log.info("going on from step %d", self.done)
