"""The training loop, the same for every recipe: steps, the log, checkpoints, stopping and resuming.

A recipe brings a `Task` (model, batches, loss); the loop knows nothing of videos. Its state is the model, the
optimizer, the task's own state and the step; all randomness is keyed by step, so there is no generator to save.
"""

from __future__ import annotations

import io
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ...core.engine import Engine
from ...core.errors import ExitCode, ReelkinError, UsageError
from ...core.progress import Progress
from .optimisation import build_optimizer, learning_rate
from .run_folder import RunFolder
from .settings import LoopConfig

log = logging.getLogger("reelkin.train")


@dataclass
class StepLoss:
    """What a task computes for a part of this rank's slice of a global batch.

    Attributes:
        per_anchor: [n] loss values with gradient, n at least 0.
        sums: numbers to be added over ranks and steps for the log, the same names on every rank.
        blame: ids of this rank's videos to be named if the step is not finite; only called then.
    """

    per_anchor: torch.Tensor
    sums: dict[str, float]
    blame: Callable[[], list[str]]


class Task(Protocol):
    """What a recipe gives the loop."""

    model: nn.Module

    def batches(self, steps: range) -> Iterator[Any]:
        """The batches of these steps, in order; each a function of its step alone."""
        ...

    def losses(self, batch: Any, parts: int) -> Iterator[StepLoss]:
        """Loss of a batch in ``parts`` parts, whose sum is what one part would give; a part is taken back through the
        model before the next one is asked for, so that memory for activations is that of one part."""
        ...

    def updated(self) -> None:
        """Called after the update that followed the last `losses`."""
        ...

    def report(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Values for the log from ``sums`` added over ranks and steps."""
        ...

    def validate(self) -> dict[str, float] | None:
        """Measure on held-out videos, all ranks together; None where there are none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State besides model and optimizer."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        ...


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
        before_first_step: called once the folder is known to be this run's.
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
        self.before_first_step: Callable[[], None] = lambda: None
        self._stop_requested = False
        self._sums: dict[str, float] = {}
        self._since = time.monotonic()

    def request_stop(self) -> None:
        """Ask for an orderly stop after the step in progress; may be called from a signal handler, on any rank."""
        self._stop_requested = True

    def train(self) -> Outcome:
        """Train to the end, or until asked to stop.

        Raises:
            ReelkinError: a loss or gradient is not finite (before it reaches the weights), or ranks have come apart.
            UsageError: the folder's checkpoint belongs to another run.
        """
        self._restore()
        self.engine.broadcast_state(self.task.model, self.optimizer)
        self.before_first_step()
        self.task.model.train()
        stopped = self.done < self.steps and self.config.stop_after == self.done
        with (
            stop_signals(self.request_stop),
            Progress(self.steps, "steps", "training", enabled=self.engine.is_main) as progress,
        ):
            progress.advance(self.done)
            for batch in self.task.batches(range(self.done, self.steps)):
                if stopped:
                    break
                note, stopped = self._step(batch)
                progress.advance(note=note)
        digest = self.engine.assert_same(self.task.model, "the trained weights")
        finished = self.done >= self.steps
        reason = "finished" if finished else "stopped on request; the same command goes on from here"
        return Outcome(ExitCode.OK if finished else ExitCode.STOPPED, reason, self.done, digest)

    def _step(self, batch: Any) -> tuple[str, bool]:
        """One update; returns a note for the progress line and whether to stop."""
        rate = learning_rate(self.config, self.done, self.steps, self.epoch_of)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        parts = []
        for part in self.task.losses(batch, self.config.accumulation):
            total = part.per_anchor.sum()
            # Ranks average their gradients; scaled like this, that is the gradient of the mean over the global batch.
            (total * (self.engine.size / self.config.batch_size)).backward()
            found = {"loss_sum": float(total.detach()), "anchors": float(len(part.per_anchor)), **part.sums}
            sums |= {name: sums.get(name, 0.0) + value for name, value in found.items()}
            parts.append(part)
        asked = self._stop_requested or self.done + 1 == self.config.stop_after
        sums = self._over_ranks({**sums, "stop": float(asked)})
        if not math.isfinite(sums["loss_sum"]):
            self._stop_before_update("loss", parts)
        self.engine.synchronize(self.optimizer)
        limit = self.config.clip_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.task.model.parameters(), limit))
        if not math.isfinite(norm):
            self._stop_before_update("gradient", parts)
        self.optimizer.step()
        self.task.updated()
        self.done += 1
        for name, value in {**sums, "grad_norm_sum": norm, "steps": 1.0}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        stop = sums["stop"] > 0 and self.done < self.steps
        self._after_step(rate, stop)
        return f"loss {sums['loss_sum'] / sums['anchors']:.4f}", stop

    def _over_ranks(self, sums: Mapping[str, float]) -> dict[str, float]:
        names = sorted(sums)
        local = torch.tensor([sums[name] for name in names], dtype=torch.float64)
        return dict(zip(names, self.engine.all_reduce(local, "step sums", op="sum").tolist(), strict=True))

    def _stop_before_update(self, what: str, parts: list[StepLoss]) -> None:
        blamed = [video_id for part in parts for video_id in part.blame()]
        videos = [each for rank in self.engine.all_gather_object(blamed, "blame") for each in rank]
        named = ", ".join(dict.fromkeys(videos[:20])) + (f" and {len(videos) - 20} more" if len(videos) > 20 else "")
        raise ReelkinError(
            f"the {what} of step {self.done + 1} is not finite, so the weights were left as after step {self.done}. "
            f"Videos concerned: {named}. Look at their features, or lower --lr (now {self.config.lr})"
        )

    def _after_step(self, rate: float, stop: bool) -> None:
        last = stop or self.done == self.steps
        if last or self.done % self.config.log_every == 0:
            self._log(rate)
        # Not when stopping: a launcher that was told to end may give its workers only seconds.
        if self.done == self.steps or self.done % self.config.validate_every == 0:
            found = self.task.validate()
            if found is not None and self.engine.is_main:
                self.folder.log_metrics({"step": self.done, "validation": found})
                log.info("step %d: %s", self.done, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        if (last or self.done % self.config.checkpoint_every == 0) and self.engine.is_main:
            self.folder.save_checkpoint(self.done, self._state(), self.identity, self.config.keep_checkpoints)

    def _log(self, rate: float) -> None:
        sums, seconds = self._sums, time.monotonic() - self._since
        self._sums, self._since = {}, time.monotonic()
        if not self.engine.is_main:
            return
        row = {"step": self.done, "loss": sums["loss_sum"] / sums["anchors"], "lr": rate}
        row |= self.task.report(sums)
        row |= {"grad_norm": sums["grad_norm_sum"] / sums["steps"], "seconds": round(seconds, 3)}
        self.folder.log_metrics({**row, "samples_per_second": round(sums["anchors"] / max(seconds, 1e-9), 1)})

    # -- resuming

    def _state(self) -> dict[str, Any]:
        model = self.task.model.state_dict()
        return {"model": model, "optimizer": self.optimizer.state_dict(), "task": self.task.state_dict()}

    def _restore(self) -> None:
        """Load the newest checkpoint. Rank 0 finds and reads it and sends it to all: no shared disk is needed."""
        found: dict[str, Any] = {"error": "", "step": 0, "bytes": 0}
        data = torch.empty(0, dtype=torch.uint8)
        if self.engine.is_main:
            found, data = self._find()
        found = self.engine.broadcast_object(found, "checkpoint found")
        if found["error"]:
            raise UsageError(found["error"])
        if not found["bytes"]:
            return
        if not self.engine.is_main:
            data = torch.empty(found["bytes"], dtype=torch.uint8)
        self.engine.broadcast_(data, "checkpoint")
        state = torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
        try:
            self.task.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.task.load_state_dict(state["task"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ReelkinError(f"the checkpoint of step {found['step']} does not fit this run: {error}") from error
        self.done = int(found["step"])
        if self.engine.is_main:
            self.folder.truncate_metrics(self.done)
            log.info("going on from step %d", self.done)

    def _find(self) -> tuple[dict[str, Any], torch.Tensor]:
        nothing = torch.empty(0, dtype=torch.uint8)
        folder = self.folder.last_checkpoint()
        if folder is None:
            return {"error": "", "step": 0, "bytes": 0}, nothing
        if self.config.resume == "never":
            error = f"{self.folder.path} holds the checkpoint {folder.name}; give another --output, or --resume auto"
            return {"error": error, "step": 0, "bytes": 0}, nothing
        meta = RunFolder.read_meta(folder)
        changes = differences(meta, self.identity)
        if changes and not self.config.allow_changes:
            error = (
                f"{folder} belongs to another run: {'; '.join(changes)}. Give another --output, or --allow-changes "
                "to go on with its weights all the same"
            )
            return {"error": error, "step": 0, "bytes": 0}, nothing
        data = torch.frombuffer(bytearray((folder / "state.pt").read_bytes()), dtype=torch.uint8)
        return {"error": "", "step": int(meta["step"]), "bytes": len(data)}, data


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """What differs between two identities, as sentences such as "lr was 0.1, now 0.2"."""
    found: list[str] = []
    for name in sorted((set(old) | set(new)) - ({"step"} if not where else set())):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{where}{name}.")
        elif before != now:
            found.append(f"{where}{name} was {before}, now {now}")
    return found


@contextmanager
def stop_signals(request: Callable[[], None]) -> Iterator[None]:
    """While the body runs, SIGTERM and SIGINT call ``request`` instead of ending the process.

    Outside the main thread nothing is changed: signals cannot be caught there.
    """

    def on_signal(number: int, frame: Any) -> None:
        request()

    try:
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
