"""Settings of the training loop, whatever the recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.config import super_init
from ...core.errors import UsageError

FREE_FIELDS = frozenset(
    {"output", "features", "resume", "allow_changes", "stop_after", "log_every", "checkpoint_every", "keep_checkpoints"}
    | {
        "validate_every",
        "patience",
        "log_to",
        "backend",
        "deadline",
        "dry_run",
        "threads",
        "num_workers",
        "max_missing_share",
    }
)
"""Fields that may change between a run and its resumption: they have no influence on the result."""


def require_positive(config: object, name: str) -> None:
    """Raise UsageError unless the field ``name`` is above 0 and finite."""
    if not 0 < getattr(config, name) < math.inf:
        raise UsageError(f"--{name.replace('_', '-')} is {getattr(config, name)}; it must be a number above 0")


def require_not_negative(config: object, name: str) -> None:
    """Raise UsageError unless the field ``name`` is 0 or more and finite."""
    if not 0 <= getattr(config, name) < math.inf:
        raise UsageError(f"--{name.replace('_', '-')} is {getattr(config, name)}; it must be 0 or a number above it")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is kept and resumed, whatever it trains: recipes with flags of their own have these too."""

    seed: int = 0
    """Changes initial weights, order, windows, edits and dropout."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one more is made at the end and when stopped."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept, at least 2: should one be damaged, the run goes on from the one before."""
    validate_every: int = 100
    """Steps between validations, if there are held-out videos; the best one's model is kept in best/."""
    patience: int = 0
    """End the run after this many validations in a row that were no better than the best; 0: never."""
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Send the metrics there too: to TensorBoard files in the run folder, to Weights & Biases."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on from the newest checkpoint in the run folder, if there is one; never: refuse such a folder."""
    allow_changes: bool = False
    """Resume although the configuration, the features or the labels differ from the checkpoint's."""
    stop_after: int | None = None
    """Stop with a checkpoint and exit code 75 when this many steps of the whole run are done; to go on, give a larger
    number or leave it out."""
    dry_run: bool = False
    """Print the configuration, what there is to train on and what two steps of it cost; write nothing."""
    threads: int = 0
    """CPU threads of each rank; 0: the cores shared among the ranks of a machine."""
    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """What connects the ranks; auto goes by the launcher."""
    deadline: float = 300.0
    """Seconds that ranks wait for one another before the run is ended."""

    def __post_init__(self) -> None:
        super_init(RunSettings, self)
        for name in ("checkpoint_every", "keep_checkpoints", "validate_every", "deadline"):
            require_positive(self, name)
        if self.threads < 0:
            raise UsageError(f"--threads is {self.threads}; give a number, or 0 to share the machine's cores")
        if self.stop_after is not None and self.stop_after < 1:
            raise UsageError(f"--stop-after is {self.stop_after}; it is a number of steps, at least 1")
        if self.keep_checkpoints < 2:
            raise UsageError(f"--keep-checkpoints is {self.keep_checkpoints}; at least 2, for one may be damaged")
        if self.patience < 0:
            raise UsageError(f"--patience is {self.patience}; give a number of validations, or 0 to train to the end")


@dataclass(frozen=True, kw_only=True)
class LoopConfig(RunSettings):
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
    schedule: Literal["cosine", "cosine-epochs", "constant"] = "cosine"
    """Learning rate after warm-up: cosine down to 0 at the last step; the same in stairs of an epoch, as TCA was
    published (the last epoch still learns); or constant."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises from 0."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay; adam: decay added to the gradient, as TCA was published."""
    weight_decay: float = 0.01
    """Weight decay; adamw: a share of the weight times the learning rate, adam: added to the gradient."""
    weight_decay_on: Literal["matrices", "all"] = "matrices"
    """What decays: parameters of two or more dimensions, or biases and norms too, as TCA was published."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    compression: Literal["none", "fp16"] = "none"
    """Gradients between ranks: as they are, or as float16."""
    reduction: Literal["average", "adasum"] = "average"
    """How ranks' gradients are combined; adasum needs Horovod with MPI and a power of two ranks."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl, whose values are means over these steps."""

    def __post_init__(self) -> None:
        super_init(LoopConfig, self)
        for name in ("batch_size", "accumulation", "lr", "epochs", "log_every"):
            require_positive(self, name)
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            require_not_negative(self, name)
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps is {self.steps}; at least 1, or leave it out and give --epochs")
