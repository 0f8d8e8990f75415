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
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from ...core.config import super_init
from ...core.engine import Engine
from ...core.errors import ExitCode, ReelkinError, UsageError
from ...core.progress import Progress
from .run_folder import RunFolder

log = logging.getLogger("reelkin.train")

FREE_FIELDS = frozenset(
    {"output", "features", "resume", "allow_changes", "stop_after", "log_every", "checkpoint_every", "keep_checkpoints"}
    | {"validate_every", "backend", "deadline", "threads"}
)
"""Fields that may change between a run and its resumption: they have no influence on the result."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Training without the recipe's own part."""

    output: Path
    """Run folder; the trained model will be in its subfolder model/."""
    steps: int | None = None
    """Updates in all. Default: as many as --epochs makes."""
    epochs: float = 100.0
    """Visits of every item; used when --steps is not given."""
    batch_size: int = 64
    """Anchors per update, over all ranks together."""
    accumulation: int = 1
    """Parts in which a rank's anchors pass through the model: less memory, the same loss and gradient."""
    lr: float = 5e-4
    """Peak learning rate; it does not depend on the number of ranks, because the global batch does not."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after warm-up: cosine down to 0 at the last step, or constant."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises from 0."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay; adam: decay added to the gradient, as TCA was published."""
    weight_decay: float = 0.01
    """Weight decay of all parameters of two or more dimensions."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    compression: Literal["none", "fp16"] = "none"
    """Gradients between ranks: as they are, or as float16."""
    reduction: Literal["average", "adasum"] = "average"
    """How ranks' gradients are combined; adasum needs Horovod with MPI and a power of two ranks."""
    seed: int = 0
    """Changes initial weights, order, windows, edits and dropout."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl, whose values are means over these steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one more is made at the end and when stopped."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    validate_every: int = 100
    """Steps between validations, if there are held-out videos."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on from the newest checkpoint in the run folder, if there is one; never: refuse such a folder."""
    allow_changes: bool = False
    """Resume although the configuration, the features or the labels differ from the checkpoint's."""
    stop_after: int | None = None
    """Stop with a checkpoint and exit code 75 when this many steps are done; for time slots of a cluster."""
    threads: int = 0
    """CPU threads of each rank; 0: the cores shared among the ranks of a machine."""
    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """What connects the ranks; auto goes by the launcher."""
    deadline: float = 300.0
    """Seconds that ranks wait for one another before the run is ended."""

    def __post_init__(self) -> None:
        super_init(LoopConfig, self)
        positive = (
            "batch_size",
            "accumulation",
            "lr",
            "epochs",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "validate_every",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must not be negative")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps is {self.steps}; at least 1, or leave it out and give --epochs")


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

    Attributes:
        done: updates made so far.
        before_first_step: called once the folder is known to be this run's.
    """

    def __init__(self, engine: Engine, task: Task, config: LoopConfig, steps: int, identity: Mapping[str, Any]) -> None:
        if config.batch_size < engine.size:
            raise UsageError(
                f"--batch-size {config.batch_size} leaves some of {engine.size} ranks without an anchor; raise it"
            )
        self.engine, self.task, self.config, self.steps = engine, task, config, steps
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
        rate = learning_rate(self.config, self.done, self.steps)
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


def build_optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """Adam or AdamW; biases and norms are not decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UsageError("this aggregator has no parameter, so there is nothing to train; use it without training")
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind([group for group in groups if group["params"]], lr=config.lr)


def learning_rate(config: LoopConfig, step: int, steps: int) -> float:
    """Rate of the update that follows ``step`` updates out of ``steps``."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.lr
    share = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * share))


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
