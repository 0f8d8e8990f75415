"""Where a run's metrics go besides metrics.jsonl: TensorBoard, Weights & Biases.

metrics.jsonl is what counts; the others are fed from it. Rank 0 alone writes. A run that goes on writes no step twice:
TensorBoard's folder is made anew from metrics.jsonl, and Weights & Biases is not told what it knows already.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ...core.errors import ReelkinError, UsageError

Sink = Literal["tensorboard", "wandb"]


def figures(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A row's figures with names such as train/loss and validation/map; what is not a number is left out."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", float(each)) for inner, each in value.items() if isinstance(each, float))
        elif name != "step" and isinstance(value, (int, float)):
            yield f"train/{name}", float(value)


class TensorBoard:
    """Event files in ``folder``, which is made anew."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"--log-to tensorboard: it is not installed ({error}); pip install 'reelkin[tensorboard]'"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise ReelkinError(f"cannot write {folder}: {error.strerror}; move it away, or make room") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics.jsonl."""
        for name, value in figures(row):
            self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases named after ``folder``; project and account are those of wandb's own settings
    (WANDB_PROJECT, WANDB_MODE...)."""

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(f"--log-to wandb: it is not installed ({error}); pip install 'reelkin[wandb]'") from error
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        try:
            self._run = wandb.init(dir=str(folder), name=folder.name, id=identity, resume="allow")
        except wandb.errors.Error as error:
            raise UsageError(
                f"--log-to wandb: {error} Or keep the run here, and send it later: WANDB_MODE=offline"
            ) from error
        self._known = int(self._run.starting_step) - 1

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics.jsonl, unless an earlier part of this run sent its step."""
        if int(row["step"]) > self._known:
            self._run.log(dict(figures(row)), step=int(row["step"]))

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class Telemetry:
    """The sinks that ``--log-to`` names; on other ranks than 0, none.

    Args:
        folder: of the run.
        names: which.
        rows: what metrics.jsonl holds already.
        enabled: False on every rank but the first.

    Raises:
        UsageError: a sink is not installed, or Weights & Biases refuses.
    """

    def __init__(self, folder: Path, names: Sequence[Sink], rows: Iterable[Mapping[str, Any]], enabled: bool) -> None:
        self._sinks: list[TensorBoard | Wandb] = []
        for name in names if enabled else ():
            self._sinks.append(TensorBoard(folder / "tensorboard") if name == "tensorboard" else Wandb(folder))
        for row in rows if self._sinks else ():
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics.jsonl."""
        for sink in self._sinks:
            sink.write(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self._sinks:
            sink.close()
