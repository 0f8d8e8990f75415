"""The engine: what the rest of the system sees of ranks and collectives, whichever library carries them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from ..errors import ReelkinError, UsageError
from . import plain, state
from .carrier import Carrier
from .gradients import Compression, GradientReducer, Reduction


class Engine(Carrier):
    """Ranks, collectives and the distributed optimizer. Made by `start`, used by every stage.

    All ranks must call the same collectives in the same order from one thread. Each call takes a name for messages;
    it need not be unique, a counter is added. Every collective is subject to the deadline (see `deadline`). Results do
    not carry gradients. Tensors may live on the CPU or on ``device``; results live where the argument does.

    Attributes:
        backend: "horovod", "torch" or "single".
        rank: this process, 0 to size - 1.
        size: number of ranks.
        local_rank: this process among those of its host.
        device: where this rank computes: its GPU, or the CPU.
    """

    def __init__(self, rank: int, size: int, local_rank: int, device: torch.device) -> None:
        super().__init__(rank, size, local_rank, device)
        self._reducers: weakref.WeakKeyDictionary[torch.optim.Optimizer, GradientReducer] = weakref.WeakKeyDictionary()

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes files and prints."""
        return self.rank == 0

    # -- collectives on tensors

    def all_gather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Concatenate the ranks' tensors along the first dimension, in rank order.

        Args:
            tensor: [rows, ...] of any dtype; ``rows`` may differ between ranks and may be 0, the rest must agree.

        Returns:
            [sum of rows, ...], the same bits on every rank. It carries no gradient: a loss over gathered embeddings
            puts its own, live rows back into place, and its gradients are then to be summed over ranks.

        Raises:
            ValueError: the tensor has no dimension.
            ReelkinError: ranks disagree on dtype, trailing shape or on what comes next; or the carrier failed.
        """
        if tensor.dim() == 0:
            raise ValueError(f"all_gather of {name!r}: the tensor needs a first dimension to concatenate along")
        kind = plain.type_and_shape(tensor, ragged=True)
        with self._collective("all_gather", name, kind, rows=tensor.shape[0]) as rows:
            gathered = self._gather_bytes(plain.as_bytes(tensor), tensor[:0], rows, f"gather {name} {kind}")
            return gathered.view(tensor.dtype).view(sum(rows), *tensor.shape[1:])

    def all_reduce(self, tensor: torch.Tensor, name: str, op: Literal["mean", "sum", "max"] = "mean") -> torch.Tensor:
        """Combine the ranks' tensors element by element; the argument stays as it is.

        Args:
            tensor: [...] of the same shape and dtype on every rank.
            op: "mean" (floating point only), "sum", or "max" (undefined where a rank holds nan).

        Returns:
            [...] of the same dtype, the same bits on every rank. float16 and bfloat16 are combined in float32. As with
            ``torch.sum``, the sum of bool and of small integers is int64; the max of bool is "any".

        Raises:
            ValueError: unknown ``op``, or the mean of integers.
            ReelkinError: as `all_gather`.
        """
        if op not in ("mean", "sum", "max"):
            raise ValueError(f"all_reduce of {name!r}: op is 'mean', 'sum' or 'max', got {op!r}")
        if op == "mean" and not tensor.is_floating_point():
            raise ValueError(f"all_reduce of {name!r}: no mean of {tensor.dtype}; convert it, or take the sum")
        if tensor.is_complex():
            raise ValueError(f"all_reduce of {name!r}: complex tensors are not supported; use torch.view_as_real")
        if tensor.is_floating_point():
            wire_dtype = tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32
        else:
            wire_dtype = torch.int64
        result_dtype = wire_dtype if op == "sum" and not tensor.is_floating_point() else tensor.dtype
        wire = tensor.detach().to(wire_dtype, copy=True, memory_format=torch.contiguous_format)
        self._reduce_in_place(wire, name, "max" if op == "max" else "sum", f"{op} {plain.type_and_shape(tensor)}")
        if op == "mean":
            wire /= self.size
        return wire.to(result_dtype)

    def broadcast_(self, tensor: torch.Tensor, name: str, root: int = 0) -> torch.Tensor:
        """Overwrite ``tensor`` [...] with rank ``root``'s, of the same shape and any dtype, and return it.

        Raises:
            ValueError: no such root.
            ReelkinError: as `all_gather`.
        """
        self._check_root(root, name)
        kind = f"from {root} {plain.type_and_shape(tensor)}"
        with self._collective("broadcast", name, kind):
            data = plain.as_bytes(tensor)
            if data.numel():
                self._broadcast_bytes(data, root, f"broadcast {name} {kind}")
            if self.rank != root and not tensor.is_contiguous():  # then ``data`` is a copy
                with torch.no_grad():
                    tensor.copy_(data.view(tensor.dtype).view(tensor.shape))
        return tensor

    # -- collectives on plain values

    def all_gather_object(self, value: Any, name: str) -> list[Any]:
        """The ranks' values in rank order. Values are plain (see `plain.encode`) and travel as JSON.

        Raises:
            TypeError: the value is not plain.
            ReelkinError: as `all_gather`.
        """
        data = plain.encode(value)
        with self._collective("all_gather_object", name, rows=data.numel()) as rows:
            gathered = self._gather_bytes(data, data[:0], rows, f"gather object {name}")
            return [plain.decode(piece) for piece in gathered.split(rows)]

    def broadcast_object(self, value: Any, name: str, root: int = 0) -> Any:
        """Rank ``root``'s value on every rank; what the others pass is ignored. Plain values only, sent as JSON.

        Raises:
            TypeError: the root's value is not plain.
            ReelkinError: as `all_gather`.
        """
        self._check_root(root, name)
        data = plain.encode(value if self.rank == root else None)
        with self._collective("broadcast_object", name, f"from {root}", rows=data.numel()) as rows:
            if self.rank != root:
                data = torch.empty(rows[root], dtype=torch.uint8)
            self._broadcast_bytes(data, root, f"broadcast object {name} {root}")
        return plain.decode(data)

    def on_main(self, work: Callable[[], Any], name: str) -> Any:
        """What ``work`` returns on rank 0, on every rank; the others do not call it. Plain values only, sent as JSON.

        Raises:
            ReelkinError, UsageError: what rank 0 raised, on every rank.
        """
        said: dict[str, Any] = {}
        if self.is_main:
            try:
                said = {"value": work()}
            except ReelkinError as error:
                said = {"problem": str(error), "usage": isinstance(error, UsageError)}
        said = self.broadcast_object(said, name)
        if "problem" in said:
            raise (UsageError if said["usage"] else ReelkinError)(said["problem"])
        return said["value"]

    def agree(self, value: bool, name: str) -> bool:
        """True on every rank if any rank says True."""
        with self._collective("agree", name, rows=int(bool(value))) as said:
            return any(said)

    def barrier(self, name: str) -> None:
        """Wait until every rank has come here."""
        with self._collective("barrier", name):
            pass

    @contextmanager
    def extend_deadline(self, seconds: float) -> Iterator[None]:
        """Give rank 0 time for work of its own. Every rank enters the context; it ends with a barrier.

        ::

            with engine.extend_deadline(3600):
                if engine.is_main:
                    build_the_index()

        The other ranks go straight to the barrier (or to another collective inside the context) and may wait there for
        ``seconds`` longer than the usual deadline. Contexts may be nested; the times add up.
        """
        if self._watchdog is None:
            yield
            return
        self._watchdog.extra_seconds += seconds
        try:
            yield
            self.barrier("end of extended deadline")
        finally:
            self._watchdog.extra_seconds -= seconds

    def when_others_fail(self, tell: Callable[[str, bool], None]) -> None:
        """Have rank 0 told why the run is about to end, before the launcher or a broken collective ends it.

        Args:
            tell: called from another thread with a sentence that names the rank, its host and its error (or says which
                ranks a collective waited for in vain), and whether that was a `UsageError`. It may be called for
                several ranks, and must not use the engine. A rank that was killed has no last word.
        """
        if self._watchdog is not None and self.is_main:
            self._watchdog.tell = tell

    # -- training

    def wrap_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        compression: Compression = "none",
        reduction: Reduction = "average",
    ) -> torch.optim.Optimizer:
        """Make ``optimizer.step()`` combine the ranks' gradients first. Returns the same object.

        A hook before the step puts all gradients into one flat buffer, sums it over ranks with a single collective and
        divides by the number of ranks: nothing depends on the order in which gradients become ready, so reruns are
        bit-equal at any fixed number of ranks. Learning rate schedulers, ``state_dict`` and ``load_state_dict`` work as
        before. A parameter without a gradient on some ranks counts as zero there; without one on all ranks it is left
        without. `synchronize` reduces earlier, for clipping. With one rank nothing is done.

        Args:
            named_parameters: as ``model.named_parameters()``; must hold every parameter of the optimizer.
            compression: "fp16" sends float16; gradients are divided by the number of ranks before, so that their sum
                cannot overflow.
            reduction: "adasum" combines gradients, parameter by parameter, by the Adasum rule (Maleki et al. 2021; see
                `adasum`) instead of averaging them. Needs Horovod with MPI and a power of two ranks.

        Raises:
            UsageError: an unknown choice, or Adasum where it cannot run.
            ReelkinError: ranks hold different parameters.
        """
        reducer = GradientReducer(self, optimizer, list(named_parameters), compression, reduction)
        if self.size > 1:
            earlier = self._reducers.pop(optimizer, None)
            if earlier is not None:
                earlier.detach()
            reducer.attach(optimizer)
            self._reducers[optimizer] = reducer
        return optimizer

    def synchronize(self, optimizer: torch.optim.Optimizer) -> None:
        """Combine the ranks' gradients now; the next ``optimizer.step()`` does not do it again.

        Call it between ``backward()`` and gradient clipping (or ``GradScaler.unscale_``), in every iteration or in
        none. With one rank it does nothing.

        Raises:
            UsageError: the optimizer was not wrapped.
        """
        if self.size == 1:
            return
        reducer = self._reducers.get(optimizer)
        if reducer is None:
            raise UsageError("synchronize: this optimizer was not passed to engine.wrap_optimizer")
        reducer.synchronize(optimizer)

    def broadcast_state(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Give every rank rank 0's optimizer state, then its parameters and buffers.

        The other ranks' optimizers may be empty: the state is loaded, no step is made. Parameters come last, so that
        whatever loading a state does to them is undone.

        Raises:
            ReelkinError: ranks hold different models.
        """
        if self.size > 1:
            state.broadcast_state(self, model, optimizer)

    def digest(self, value: torch.Tensor | nn.Module | torch.optim.Optimizer) -> str:
        """sha256 (hex) over the names, dtypes, shapes and bits of a tensor, a model's parameters and buffers, or an
        optimizer's state. Local: no collective."""
        return state.digest(value)

    def assert_same(self, value: torch.Tensor | nn.Module | torch.optim.Optimizer, name: str) -> str:
        """Check that all ranks hold the same bits; returns the digest.

        Raises:
            ReelkinError: on every rank, if digests differ; says which ranks hold which.
        """
        own = state.digest(value)
        found = self.all_gather_object(own, f"digest of {name}")
        if len(set(found)) > 1:
            holders = {each: [rank for rank, other in enumerate(found) if other == each] for each in found}
            listing = "; ".join(f"ranks {ranks}: {each[:12]}" for each, ranks in holders.items())
            raise ReelkinError(
                f"{name} differs between ranks ({listing}). Ranks must start from the same state (broadcast_state) and "
                "apply the same updates"
            )
        return own

    def _check_root(self, root: int, name: str) -> None:
        if not 0 <= root < self.size:
            raise ValueError(f"broadcast of {name!r}: root is a rank from 0 to {self.size - 1}, got {root}")
