"""What carries the collectives: the calls that a backend provides, and the frame in which each of them runs.

Every collective is preceded by an exchange of a small header (sequence number, a hash of what is about to happen, the
number of rows). It costs about a millisecond and buys three things: ranks that have come to different collectives, or
to the same one with tensors that do not fit, fail at once on every rank with a message that says who is where, instead
of pairing wrong tensors (torch.distributed) or hanging (Horovod); ragged gathers know their sizes; and the carriers
need not be given a new name per call, which would defeat Horovod's response cache.
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, NoReturn

import torch

from ..errors import ReelkinError, UsageError
from .deadline import RankLost, Watchdog

WIRE_TYPES = (torch.float64, torch.float32, torch.float16, torch.int64)
"""What every carrier can add up and compare; other dtypes are reduced as float32 or int64."""

LABEL_BYTES = 512


class Carrier(ABC):
    """Base of `base.Engine`: one rank's end of a backend.

    Attributes: see `base.Engine`.
    """

    backend: Literal["horovod", "torch", "single"]
    adasum_averages = 1  # ranks that Adasum averages before it combines: those of a machine under NCCL

    def __init__(self, rank: int, size: int, local_rank: int, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.device = device
        self._watchdog: Watchdog | None = None
        self._sequence = 0
        self._busy = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size}, device={str(self.device)!r})"

    # -- what a backend provides; arguments are contiguous and detached

    @abstractmethod
    def _exchange(self, values: torch.Tensor, name: str) -> torch.Tensor:
        """Gather 1-D CPU tensors [n] of one fixed size into [size, n]."""

    @abstractmethod
    def _gather_rows(self, rows_NB: torch.Tensor, rows: Sequence[int], name: str) -> torch.Tensor:
        """Concatenate uint8 [rows[rank], bytes] into uint8 [sum(rows), bytes]; neither is 0."""

    @abstractmethod
    def _reduce_(self, tensor: torch.Tensor, op: Literal["sum", "max"], name: str) -> None:
        """Reduce a non-empty 1-D tensor of a dtype in `WIRE_TYPES` in place."""

    @abstractmethod
    def _broadcast_bytes(self, data: torch.Tensor, root: int, name: str) -> None:
        """Overwrite a non-empty uint8 [n] in place."""

    @abstractmethod
    def _shut_down(self) -> None:
        """Give the carrier's resources back, after the last collective."""

    def _check_adasum(self) -> None:
        """Raise UsageError unless this backend can do `_adasum_`."""
        raise UsageError(
            "Adasum runs under Horovod over MPI only: start the same line with `horovodrun --mpi -np N` (here: "
            f"{self.backend}); without MPI in `horovodrun --check-build`, `apt-get install libopenmpi-dev openmpi-bin` "
            "and build with HOROVOD_WITH_MPI=1 (make setup). Or leave it out: --reduction average, no --use-adasum"
        )

    def _adasum_(self, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        """Combine each tensor over ranks by the Adasum rule, in place."""
        raise NotImplementedError

    # -- the frame

    def _gather_bytes(self, data: torch.Tensor, like: torch.Tensor, rows: Sequence[int], name: str) -> torch.Tensor:
        """Flat uint8 of all ranks' ``data``; ``like`` [0, ...] has the trailing shape and dtype of a row."""
        row_bytes = like.new_empty((1, *like.shape[1:])).numel() * like.element_size()
        if sum(rows) * row_bytes == 0:
            return data.new_empty(0)
        return self._gather_rows(data.view(rows[self.rank], row_bytes), rows, name).reshape(-1)

    def _reduce_in_place(self, wire: torch.Tensor, name: str, op: Literal["sum", "max"], detail: str) -> None:
        with self._collective("all_reduce", name, detail):
            if wire.numel():
                self._reduce_(wire.view(-1), op, f"reduce {name} {detail}")

    @contextmanager
    def _collective(self, kind: str, name: str, detail: str = "", rows: int = 0) -> Iterator[list[int]]:
        """Frame of every collective: deadline, header exchange, errors. Yields the ranks' ``rows``."""
        if not self._busy.acquire(blocking=False):
            raise ReelkinError(f"{kind} {name!r}: another thread of this rank is in a collective; use one thread")
        try:
            self._sequence += 1
            label = f"{kind} '{name}#{self._sequence}' {detail}".strip()
            watch = self._watchdog.waiting(self._sequence, label) if self._watchdog else nullcontext()
            with watch:
                try:
                    yield self._meet(label, rows)
                    if self.device.type == "cuda":
                        # GPU collectives return before they are done; waiting here puts them under the deadline.
                        torch.cuda.current_stream(self.device).synchronize()
                except RuntimeError as error:
                    self._fail(label, error)
        finally:
            self._busy.release()

    def _meet(self, label: str, rows: int) -> list[int]:
        hashed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big", signed=True)
        headers = self._exchange(torch.tensor([self._sequence, hashed, rows], dtype=torch.int64), "header")
        if (headers[:, :2] == headers[0, :2]).all():
            return [int(count) for count in headers[:, 2]]
        text = label.encode()[:LABEL_BYTES].ljust(LABEL_BYTES)
        labels = self._exchange(torch.frombuffer(bytearray(text), dtype=torch.uint8), "labels")
        listing = "\n".join(
            f"  rank {rank} is at {row.numpy().tobytes().decode(errors='replace').strip()}"
            for rank, row in enumerate(labels)
        )
        raise ReelkinError(f"ranks came to different collectives, or with tensors that do not fit:\n{listing}")

    def _fail(self, label: str, error: RuntimeError) -> NoReturn:
        missing = self._watchdog.missing(None, 2.0)[0] if self._watchdog else []
        causes = list(self._watchdog.farewells.values()) if self._watchdog else []
        why = "" if causes else ", most likely because another rank ended; see that rank's output first."
        others = "".join(f"\n  {sentence}" for sentence in missing if sentence not in causes)
        raise RankLost(
            "".join(f"{cause}\n" for cause in causes) + f"rank {self.rank}: {label} failed{why}{others}\n"
            f"The {self.backend} backend says: {str(error).strip()[:500]}"
        ) from error
